"""The audit log inside the TEE: what was asked and how it ended, in a chain, without content."""

import time
from collections import deque
from collections.abc import Callable

from tee_sim.audit_chain import GENESIS, MAX_RECORDS, AuditRecord, chained
from tee_sim.protocol import Frame, Kind, referenced_bytes

MAX_RUN_CALLS = 1 << 16  # then a new record: bounds the sums, and ties a run to a time


class AuditLog:
    """Records of every packet answered, the newest `keep` of them, and totals over all.

    Security: takes sizes, codes and numbers. The chain goes on over records that were dropped, so
    its head stands for all there ever were.

    Args:
        keep: records kept, at least 1.
        clock: nanoseconds. While it runs back, the log's time stands still.
    """

    def __init__(
        self, keep: int = MAX_RECORDS, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=keep)  # (digest before, record)
        self._clock = clock
        self._started = self._latest = clock()
        self._head = GENESIS
        self._length = 0
        # What the requests and outcomes of the open run have in common, and what they add up to.
        self._run: tuple[object, ...] = ()
        self._common = (0, 0, 0, 0, 0)  # session, command, code, kind, origin
        self._application = self._first_seq = self._last_seq = self._at_ms = 0
        self._calls = self._bytes_in = self._bytes_out = 0
        self.crossings = self.refused = 0  # these four without the open run
        self.bytes_in = self.bytes_out = 0  # of commands that succeeded

    @property
    def uptime_ms(self) -> int:
        """Milliseconds since the log was started, never fewer than before."""
        self._latest = max(self._latest, self._clock())
        return (self._latest - self._started) // 1_000_000

    @property
    def kept(self) -> int:
        """Records that a tail can still give."""
        return len(self._kept)

    def repeats(self, frame: Frame, code: int, origin: int) -> bool:
        """Count an answered packet as one more of the open run, if it is one, and say so.

        Args:
            frame: the request; one of kind 0 for a packet that was no frame.
            code, origin: what the reply said.
        """
        if (frame[:4], code, origin) != self._run or self._calls == MAX_RUN_CALLS:
            return False
        bytes_in, bytes_out = referenced_bytes(frame.param_types, frame.values)
        self._last_seq = frame.seq
        self._calls += 1
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out
        return True

    def begin(self, frame: Frame, application: int, code: int, origin: int) -> None:
        """End the open run and begin another with this packet.

        Args:
            frame, code, origin: as for `repeats`.
            application: high half of the UUID of the session's application, 0 for none.
        """
        self.end_run()
        self._run = (frame[:4], code, origin)
        self._common = (frame.session, frame.command, code, frame.kind, origin)
        self._application, self._first_seq, self._at_ms = application, frame.seq, self.uptime_ms
        self.repeats(frame, code, origin)

    def end_run(self) -> None:
        """Make a record of the open run, if there is one, and add it to the totals."""
        if not self._calls:
            return
        record = AuditRecord(
            *(self._length, self._application, self._first_seq, self._last_seq, self._at_ms),
            *(self._bytes_in, self._bytes_out, self._calls),
            *self._common,
        ).pack()
        head = chained(self._head, record)
        self._kept.append((self._head, record))
        # All that takes memory is done: a run that did not fit is open still, and the chain whole.
        self._head = head
        self._length += 1
        _, _, code, kind, _ = self._common
        self.crossings += self._calls if kind == Kind.INVOKE else 0
        if code:
            self.refused += self._calls
        else:
            self.bytes_in += self._bytes_in
            self.bytes_out += self._bytes_out
        self._run = ()
        self._calls = self._bytes_in = self._bytes_out = 0

    def tail(self, most: int) -> tuple[bytes, int, bytes]:
        """End the open run and return the newest records, for `audit_chain.read_tail`.

        Args:
            most: records wanted at most.

        Returns:
            The digest before the first of them and the records; the log's length; its head.
        """
        self.end_run()
        chosen = list(self._kept)[max(0, len(self._kept) - most) :] if most > 0 else []
        before = chosen[0][0] if chosen else self._head
        return before + b"".join(record for _, record in chosen), self._length, self._head
