"""A TEE inside this very process: its commands can be watched, exchanged, and made to fail."""

import gc
import inspect
import os
import sys
import threading
from types import SimpleNamespace

from tee_helpers import ROOT_KEY

from tee_sim import daemon
from tee_sim.channel import Channel
from tee_sim.dispatch import Dispatcher
from tee_sim.ledger import CostLedger
from tee_sim.protocol import APPLICATIONS, NO_VALUES, TA_GUARD, TA_KV, Kind, decode, encode

UUIDS = {name: uuid for uuid, name in APPLICATIONS.items()}

# What gives memory back, or only says a size: it takes none, so memory cannot run out there.
_FREEING = {"refund", "wipe", "close", "release", "clear", "budget_bytes", "__exit__"}


class LocalChannel(Channel):
    """Asks a dispatcher of this very process, whose commands can be made to fail anywhere."""

    def __init__(self, role):
        load, audit = daemon._loader(role, "")
        self.dispatcher = Dispatcher(load, 0, audit)
        self.process = SimpleNamespace(pid=0, kill=lambda: None)
        self.ledger = CostLedger()
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()
        self._seq, self._dead, self._closed = 0, False, False

    def _exchange(self, packet, seq, fds, request):
        reply = decode(self.dispatcher.handle(packet, [os.dup(fd) for fd in fds]))
        self.dispatcher.note()
        self.ledger.sent(*request)
        return reply

    def _reap(self, timeout_s):
        pass

    def alive(self):
        return not (self._dead or self._closed)

    def close(self):
        self._closed = True


def launch_local(cls, role="core", *, fuses=None, **_):
    if fuses is not None:
        fuses.touch(0o600)  # there is a file, as after any start; the key is the test's
    channel = LocalChannel(role)
    key = ROOT_KEY if role == "core" else b""
    values = tuple(int.from_bytes(key[at : at + 8], "little") for at in range(0, 64, 8))
    channel.call(Kind.INITIALIZE, "initialise", types=0x11 if key else 0, values=values)
    return cls(channel, role, channel.open_session(TA_KV if role == "core" else TA_GUARD))


def local_tee(role):
    """A dispatcher in this process with a session of each application: (dispatcher, sessions)."""
    channel = LocalChannel(role)
    values = tuple(int.from_bytes(ROOT_KEY[at : at + 8], "little") for at in range(0, 64, 8))
    channel.call(Kind.INITIALIZE, "x", types=0x11 if role == "core" else 0, values=values)
    served = channel.dispatcher._applications
    return channel.dispatcher, {APPLICATIONS[uuid]: channel.open_session(uuid) for uuid in served}


class Asker:
    """Raw requests to a dispatcher, numbered on."""

    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.seq = 100

    def __call__(self, kind, session=0, command=0, types=0, values=NO_VALUES):
        self.seq += 1
        packet = encode(kind, session, command, types, 0, self.seq, values)
        reply = self.dispatcher.handle(packet)
        self.dispatcher.note()
        return decode(reply), reply


class AtCalls:
    """Something happens at every call of anything that the handler of one command makes, once.

    Attributes:
        calls: made by the handler so far; `act` is given it.
    """

    def __init__(self, client, application, command, act):
        uuid = next(uuid for uuid, name in APPLICATIONS.items() if name == application)
        self._commands = client._channel.dispatcher._applications[uuid].commands
        self._command, self._act = command, act
        self._types, self._handler = self._commands[command]
        self._commands[command] = (self._types, self._run)
        self.calls = 0

    def stop(self):
        self._commands[self._command] = (self._types, self._handler)

    def _run(self, params):
        self.stop()  # it happens once
        gc.disable()  # its callbacks would be counted, too
        sys.setprofile(self._count)
        try:
            return self._handler(params)
        finally:
            sys.setprofile(None)
            gc.enable()

    def _count(self, frame, event, argument):
        if event not in ("call", "c_call"):
            return
        if event == "call" and frame.f_code.co_flags & inspect.CO_GENERATOR:
            return  # also called when it is ended, where no error goes anywhere
        inside = frame.f_code.co_name
        name = inside if event == "call" else argument.__name__
        if name not in _FREEING and inside not in (*_FREEING, "_run"):
            self.calls += 1
            self._act(self.calls)


class RunningOut(AtCalls):
    """Memory runs out in the handler of one command, at its n-th call of anything."""

    def __init__(self, client, application, command, n):
        def run_out(calls):
            if calls == n:
                raise MemoryError

        super().__init__(client, application, command, run_out)
