"""Hedging: when the cloud has not begun within a time, the device begins too; the first done wins.

After Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: the second request starts late, so
it costs little where the first is quick. Starting the device's answer sends nothing.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

T = TypeVar("T")
Side = Literal["cloud", "local"]


class UnderWay(Protocol):
    """A call to a cloud that was begun by somebody else."""

    @property
    def failed(self) -> bool:
        """Whether it ended without an answer."""

    def wait_begun(self, timeout_s: float) -> bool:
        """Wait for its first piece or its end, so long at most; return whether either came."""

    def when_over(self, call: Callable[[], None]) -> None:
        """Have this called once, from any thread, when it has ended; at once if it has."""

    def cancel(self) -> None:
        """Cut it. Idempotent."""


@dataclass(frozen=True, slots=True)
class Hedged(Generic[T]):
    """Who answers.

    Args:
        winner: whose answer it is.
        local: the device's answer where it was begun; of a winner the pieces are to be read, of a
            loser they end with the one in the making.
    """

    winner: Side
    local: "Answering[T] | None" = None


def hedge(cloud: UnderWay, local: Callable[[], Iterator[T]], after_s: float) -> Hedged[T]:
    """Return who answers; the other is cut off, and nothing of it is shown.

    A cloud that begins, or fails, within `after_s` keeps the turn, and the device is not begun. Of
    a later one the whole answer has to be there before the device's own is: a device that begins
    soon and writes slowly does not shut out a cloud that would be done earlier. A cloud that fails
    after that leaves the turn to the device, whose pieces then come as they are made.

    Args:
        cloud: the call.
        local: begins the device's answer, in a thread of its own.
        after_s: seconds, >= 0.
    """
    if cloud.wait_begun(after_s):
        return Hedged("cloud")
    over: queue.SimpleQueue[Side] = queue.SimpleQueue()
    own = Answering(local, lambda: over.put("local"))
    cloud.when_over(lambda: over.put("cloud"))
    own.start()
    first = over.get()
    done = not cloud.failed if first == "cloud" else own.failure is not None
    if done:  # whole, or the only one that is left
        own.cancel()
        return Hedged("cloud", own)
    cloud.cancel()
    return Hedged("local", own)


class Answering(Generic[T]):
    """An answer that is made in a thread, and read by one other as it is made.

    Args:
        begin: begins it.
        when_over: called by that thread at its end.
    """

    def __init__(self, begin: Callable[[], Iterator[T]], when_over: Callable[[], None]) -> None:
        self._begin, self._when_over = begin, when_over
        self._pieces: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self.failure: Exception | None = None
        # Not in the caller's context: the device's answer has no use for a clearance to send
        self._thread = threading.Thread(target=self._run, name="ptmo-hedge", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """End it with the piece in the making. Idempotent."""
        self._cancelled.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        """Yield the pieces, once.

        Raises:
            Exception: what making them failed with.
        """
        while (piece := self._pieces.get()) is not None:
            yield piece[0]
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            pieces = self._begin()
            for piece in pieces:
                self._pieces.put((piece,))
                if self._cancelled.is_set():
                    break
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        except Exception as failure:  # told to whoever reads
            self.failure = failure
        finally:
            self._pieces.put(None)
            self._when_over()
