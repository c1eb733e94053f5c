"""Runs inside a TEE process under test: the daemon with fault points, armed by its host.

A packet `ARM point kind command at skip` arms one fault for a request of that kind and command
(-1: of any), after `skip` of them. It is taken off the socket here and never reaches the
dispatcher. A fault fires once.
"""

import os
import sys

from tee_sim import daemon
from tee_sim.protocol import Kind, decode

ARM = b"ARM "
PANIC_TEXT = "the exception quotes what it was given"
_BACK_NS = 3600 * 10**9


class Faults:
    """The instruments of `daemon.main`: one armed fault, and a clock that can be set back."""

    def __init__(self, armed="", root_file=""):
        self._armed = armed.split()
        self._back_ns = 0
        self._root_key = None
        if root_file:
            with open(root_file, "rb") as file:
                self._root_key = bytearray(file.read())

    def __call__(self, connection, load, audit):
        if audit is not None:
            clock = audit._clock
            audit._clock = lambda: clock() - self._back_ns
        return _Connection(connection, self), self._around_all(load)

    def arm(self, words):
        self._armed = words.split()

    def take(self, points, kind, command):
        """Return (point, at) if the armed fault is one of these and meant for this request."""
        if not self._armed or self._armed[0] not in points:
            return None, 0
        point, (wanted_kind, wanted_command, at, skip) = self._armed[0], map(int, self._armed[1:])
        if kind != wanted_kind or wanted_command not in (-1, command):
            return None, 0
        self._armed = [point, wanted_kind, wanted_command, at, skip - 1] if skip else []
        return (None, 0) if skip else (point, at)

    def set_clock_back(self, kind, command):
        if self.take(("clock_back",), kind, command)[0]:
            self._back_ns += _BACK_NS

    def _around_all(self, load):
        def load_faulty(budget, root_key, *more):
            applications = load(budget, self._root_key or root_key, *more)
            for application in applications:
                for command, (types, handler) in application.commands.items():
                    application.commands[command] = (types, self._around(command, handler))
            return applications

        return load_faulty

    def _around(self, command, handler):
        def faulty(params):
            point, at = self.take(("kill", "panic", "oom"), Kind.INVOKE, command)
            return handler(params) if point is None else _interrupted(handler, params, at, point)

        return faulty


def _interrupted(handler, params, at, point):
    """Run a handler up to its `at`-th line, with the lines of what it calls, or to its end."""
    left = [at]

    def trace(frame, event, _):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                _act(point, params)
        return trace

    sys.settrace(trace)
    try:
        outputs = handler(params)
    finally:
        sys.settrace(None)
    if left[0] > 0:
        _act(point, params)
    return outputs


def _act(point, params):
    if point == "kill":
        os._exit(137)  # what SIGKILL does; a TEE under its filter can send no signal
    if point == "oom":
        raise MemoryError
    raise ZeroDivisionError(f"{PANIC_TEXT}: {params.values}")


class _Connection:
    """The socket as the daemon uses it, with a point on either side of the dispatcher."""

    def __init__(self, real, faults):
        self._real, self._faults = real, faults
        self._request = (0, 0)

    def recvmsg(self, *sizes):
        while True:
            received = self._real.recvmsg(*sizes)
            if not received[0].startswith(ARM):
                break
            self._faults.arm(received[0][len(ARM) :].decode())
        if received[0]:
            frame = decode(received[0])
            self._request = (frame.kind, frame.command)
            self._faults.set_clock_back(*self._request)
            self._end_at("after_recv")
        return received

    def send(self, reply):
        self._end_at("before_reply")
        return self._real.send(reply)

    def _end_at(self, point):
        if self._faults.take((point,), *self._request)[0]:
            os._exit(137)


def main(role, socket_fd, parent_pid, fuses, key_pipe=-1, armed="", root_file=""):
    """As `daemon.main`, with fault points.

    Args:
        armed: "point kind command at skip" of a fault that is armed from the start.
        root_file: holds a root key that the host does not know.
    """
    instruments = Faults(armed, root_file)
    daemon.main(role, socket_fd, parent_pid, fuses, key_pipe=key_pipe, instruments=instruments)
