"""One TEE process seen from the host: request and reply, liveness, and the end of it."""

import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from tee_sim.errors import Origin, ResultCode, TeeDeadError, TeeError
from tee_sim.ledger import CostLedger
from tee_sim.protocol import (
    MAX_PACKET_BYTES,
    NO_VALUES,
    REPLY_BIT,
    Frame,
    Kind,
    ParamType,
    Values,
    decode,
    encode,
    param_types,
)

CALL_TIMEOUT_S = 60
_CLOSE_TIMEOUT_S = 2.0
_STDERR_BYTES = 1 << 16
_SPIN_ROUNDS = 60
_ONE_VALUE = param_types(ParamType.VALUE_INPUT)


class Channel:
    """Thread-safe request/reply over one socket: one call at a time, each answered once.

    Args:
        process: the TEE process, with stderr piped.
        connection: the host's end of its socket.
        ledger: counts every request that was sent.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        connection: socket.socket,
        ledger: CostLedger | None = None,
    ) -> None:
        self.process = process
        self.ledger = ledger or CostLedger()
        self._lock = threading.RLock()
        self._socket = connection
        self._owner_pid = os.getpid()
        self._seq = 0
        self._dead = False
        self._closed = False
        # A kernel time-out costs nothing per call, unlike socket.settimeout (a poll each).
        limit = struct.pack("@ll", CALL_TIMEOUT_S, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def call(
        self,
        kind: Kind,
        what: str,
        *,
        session: int = 0,
        command: int = 0,
        types: int = 0,
        values: Values = NO_VALUES,
        fds: Sequence[int] = (),
        undo: Callable[[Values], object] | None = None,
    ) -> Values:
        """Send one request and return the reply's eight values.

        Whatever interrupts it (Ctrl-C) comes out when the TEE is done with the request: nothing is
        written later. A second interrupt ends the TEE.

        Args:
            kind, session, command, types, values: the frame's fields.
            what: the command in words, for the error text.
            fds: descriptors to pass along.
            undo: takes back what an interrupted request did, given its reply's values.

        Raises:
            TeeError: the TEE's own refusal.
            TeeDeadError: the process is gone, closed, or did not answer in time.
        """
        with self.lock:
            self._check_usable()
            self._seq += 1
            seq = self._seq
            try:
                packet = encode(kind, session, command, types, 0, seq, values)
            except struct.error:
                self._seq -= 1
                raise TeeError(
                    ResultCode.BAD_PARAMETERS, Origin.API, f"{what}: a value is out of range"
                ) from None
            request = (kind, session, command, types, values)
            started_ns = time.perf_counter_ns()
            try:
                reply = self._exchange(packet, seq, fds, request)
            except TeeError:
                raise
            except BaseException:
                self._await_late_reply(seq, undo)
                raise
            self.ledger.answered(started_ns)
            if reply.kind != kind | REPLY_BIT or reply.seq != seq:
                raise self._die("the TEE process answered out of turn")
            if reply.command == ResultCode.TARGET_DEAD:
                raise self._die("the trusted application has panicked")
            if reply.command:
                raise TeeError(reply.command, reply.origin, f"{what} refused", reply.values[0])
            return reply.values

    def open_session(self, uuid: tuple[int, int]) -> int:
        """Open a session with a trusted application; return its number.

        Raises:
            TeeError: as `call` does; ITEM_NOT_FOUND where the process has no such application.
        """
        session = self.call(
            Kind.OPEN_SESSION,
            "open session",
            types=_ONE_VALUE,
            values=(*uuid, *NO_VALUES[2:]),
            undo=lambda opened: self.call(Kind.CLOSE_SESSION, "close", session=opened[0]),
        )[0]
        self.ledger.opened(session, uuid)
        return session

    @property
    def lock(self) -> threading.RLock:
        """Keeps other threads out of calls that belong together.

        Raises:
            TeeError: in a forked child.
        """
        if self.is_inherited():  # asked first: the fork may have copied the lock as held
            raise TeeError(
                ResultCode.BAD_STATE, Origin.API, "a forked process cannot use its parent's TEE"
            )
        return self._lock

    def _exchange(
        self,
        packet: bytes,
        seq: int,
        fds: Sequence[int],
        request: tuple[Kind, int, int, int, Values],
    ) -> Frame:
        try:
            if fds:
                socket.send_fds(self._socket, [packet], list(fds))
            else:
                self._socket.send(packet)
            self.ledger.sent(*request)  # while the TEE is at work
            while True:
                reply = decode(self._receive())
                if not 0 < reply.seq < seq:  # an interrupt may leave a reply behind
                    return reply
        except BlockingIOError:
            raise self._die(f"the TEE process did not answer within {CALL_TIMEOUT_S} s") from None
        except (OSError, TeeError):
            raise self._die("the TEE process is gone") from None

    def _await_late_reply(self, seq: int, undo: Callable[[Values], object] | None) -> None:
        """Wait until the TEE is done with request `seq`, whose caller was interrupted.

        Whether it was sent at all is not known; requests are answered in order, so the reply to
        another one tells.
        """
        self._seq += 1
        done: Values | None = None
        try:
            self._socket.send(encode(Kind.STATUS, 0, 0, 0, 0, self._seq, NO_VALUES))
            while (reply := decode(self._receive())).seq != self._seq:
                if reply.seq == seq and not reply.command:
                    done = reply.values
            if done is not None and undo is not None:
                undo(done)
        except BaseException as error:
            self._die("the TEE process was ended in the middle of a call")
            if not isinstance(error, (OSError, TeeError)):
                raise

    def _receive(self) -> bytes:
        """Wait for one packet, first without sleeping.

        Waking a sleeping thread on another core costs more than most commands take (25 us against
        15 us on a virtual machine), so the first ~80 us are spent polling. The yield lets the TEE
        run when it shares this core.
        """
        for _ in range(_SPIN_ROUNDS):
            try:
                return self._socket.recv(MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        return self._socket.recv(MAX_PACKET_BYTES)

    def alive(self) -> bool:
        """Whether the process still holds its end of the socket. No round trip."""
        if self._dead or self._closed or self.is_inherited():
            return False
        poller = select.poll()
        try:
            poller.register(self._socket, 0)  # hang-up and errors are always reported
            return not poller.poll(0)
        except (OSError, ValueError):
            return False

    def is_inherited(self) -> bool:
        """Whether this is a forked child's copy, which must not use its parent's TEE."""
        return os.getpid() != self._owner_pid

    def close(self) -> None:
        """Close the socket, which ends the process, and reap it; idempotent."""
        if self.is_inherited():
            self._socket.close()
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._socket.close()
                self._reap(_CLOSE_TIMEOUT_S)

    def startup_failure(self) -> str:
        """Return the last line the process wrote to stderr while starting; then stop listening."""
        stderr = self.process.stderr
        if stderr is None:
            return ""
        text = stderr.read(_STDERR_BYTES).decode("utf-8", "replace").strip()
        stderr.close()
        return text.splitlines()[-1] if text else ""

    def stop_listening(self) -> None:
        """Close the stderr pipe after a successful start."""
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise TeeDeadError("the TEE client is closed")
        if self._dead:
            raise TeeDeadError("the TEE process is gone")

    def _die(self, message: str) -> TeeDeadError:
        """Give the process up for good and say why."""
        self._dead = True
        self.process.kill()
        self._reap(_CLOSE_TIMEOUT_S)
        return TeeDeadError(message)

    def _reap(self, timeout_s: float) -> None:
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
