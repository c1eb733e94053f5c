"""A program that runs an engine for a reader of its memory: `scan_victim.py SETTINGS`.

SETTINGS is JSON: root (of the checkout), model, fields (of the engine), program (of the TEE
process), readable (whether the arena is), log, trace, saved, planted (hex: heap, KV page, stack,
log), order (planted as an array of every width). Each line on stdin names a phase; a line of JSON
answers when it is reached.
"""

import array
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading

settings = json.loads(sys.argv[1])
sys.path.insert(0, settings["root"])
logging.basicConfig(level=logging.DEBUG, filename=settings["log"])

from ptmo_secure import _native  # noqa: E402
from ptmo_secure.engine import tee_link  # noqa: E402
from ptmo_secure.engine.engine import Engine  # noqa: E402
from ptmo_secure.errors import TeeDiedError  # noqa: E402
from tee_sim import spawn  # noqa: E402

HEAP, PAGE, STACK, LOGGED = (bytes.fromhex(text) for text in settings["planted"])
ORDERS = [array.array(code, settings["order"]) for code in "BHIQ"]
IDS = [7 + 5 * i % 240 for i in range(45)]
trace = open(settings["trace"], "ab", 0)
launch = spawn.spawn


class Recorder:
    """The host's end of the socket; keeps every byte of both directions, and what passes along."""

    def __init__(self, real):
        self._real = real

    def send(self, packet):
        trace.write(packet)
        return self._real.send(packet)

    def sendmsg(self, buffers, ancillary=(), *rest):
        for _, kind, descriptors in ancillary:
            assert kind == socket.SCM_RIGHTS
            for fd in descriptors:
                trace.write(f"<fd {os.readlink(f'/proc/self/fd/{fd}')}>".encode())
        trace.write(b"".join(buffers))
        return self._real.sendmsg(buffers, ancillary, *rest)

    def recv(self, *args):
        packet = self._real.recv(*args)
        trace.write(packet)
        return packet

    def __getattr__(self, name):
        return getattr(self._real, name)


class Natives:
    """The native module with arenas that another process may read."""

    def __getattr__(self, name):
        return getattr(_native, name)

    @staticmethod
    def SecretArena(size):
        return _native.SecretArena(size, False)


def recorded(role, *rest):
    process, connection = launch(role, *rest)
    return process, Recorder(connection)


class Needle(ctypes.Structure):
    """Larger than registers carry: passed by value, it lies on the stack."""

    _fields_ = (("bytes", ctypes.c_char * 64),)


def hold_on_stack(held):
    """Wait in a call that has the planted bytes among its arguments."""
    argument = Needle(STACK * 4)
    held.append(threading.get_native_id())
    ctypes.CDLL(None).poll(None, 0, -1, argument)


def open_beside():
    """Open a session that stays open, and return where its page ends: in a row not in use."""
    engine.open_session().feed([1])
    layout = engine.dump_device_memory().layout
    return layout.addresses[0] + layout.page_bytes - len(PAGE)


class Hooked:
    """Has `act` run once, in the middle of the next pass: between its second layer's halves."""

    def __init__(self, act):
        self._link, self._act = engine._tee, act
        self._restore = self._link.restore
        self._link.restore = self

    def __call__(self, layer, n_tokens):
        self._restore(layer, n_tokens)
        if layer == 1:
            self._link.restore = self._restore
            self._act()


def generations_run():
    """Answers one after the other, until `generation_ends`."""
    global running
    enough.clear()
    started = threading.Event()

    def run():
        while not enough.is_set():
            session = engine.start_session()
            for _ in range(8):
                session.feed(IDS)
                started.set()

    running = threading.Thread(target=run)
    running.start()
    started.wait()


def pass_begins():
    """A generation that stands still in the middle of its third pass."""
    global running
    pieces = engine.generate("hello there", max_tokens=400)
    next(pieces)

    def stand_still():
        in_pass.set()
        go_on.wait()

    def go():
        Hooked(stand_still)
        for _ in pieces:
            if enough.is_set():
                return

    running = threading.Thread(target=go)
    running.start()
    in_pass.wait()


def generation_ends():
    go_on.set()
    enough.set()
    running.join()


def fail(kind):
    def act():
        raise kind("in the middle of a pass")

    return act


def pass_fails():
    session = engine.start_session()
    session.feed(IDS)
    Hooked(fail(ValueError))
    try:
        session.feed([1, 2, 3])
    except ValueError as error:
        assert "in the middle" in str(error)
    else:
        raise SystemExit("the pass did not fail")


def tee_crashes():
    session = engine.start_session()
    session.feed(IDS)
    Hooked(lambda: os.kill(engine.stats()["tee_pid"], signal.SIGKILL))
    try:
        for _ in range(50):
            session.feed([1, 2, 3])
    except TeeDiedError:
        return
    raise SystemExit("the TEE did not die")


def session_is_saved():
    session = engine.start_session()
    session.feed(IDS)
    session.save(settings["saved"])
    engine.resume(settings["saved"])


PHASES = {
    "running": generations_run,
    "pass": pass_begins,
    "generated": generation_ends,
    "failed": pass_fails,
    "saved": session_is_saved,
    "crashed": tee_crashes,
    "closed": lambda: engine.reset_all(),
}

logging.debug("planted %r", LOGGED)
spawn.spawn = recorded
spawn._BOOTSTRAP = settings["program"]
if settings["readable"]:
    tee_link._native = Natives()
engine = Engine.load(settings["model"], **settings["fields"])
in_pass, go_on, enough = threading.Event(), threading.Event(), threading.Event()
held = []
threading.Thread(target=hold_on_stack, args=(held,), daemon=True).start()
page = open_beside()
for line in sys.stdin:
    ctypes.memset(page, 0, len(PAGE))
    PHASES[line.strip()]()
    ctypes.memmove(page, PAGE, len(PAGE))  # a page keeps its address when it is in use no longer
    arena = engine.stats()["secret_arena"]
    print(json.dumps({"page": page, "stack_thread": held[0], "arena": arena}), flush=True)
