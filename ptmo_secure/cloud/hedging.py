"""Hedging: when the cloud has not begun within a time, the device begins too, and the first wins.

After Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: the second request starts late, so
it costs little where the first is quick. Starting the local answer sends nothing.
"""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Side = Literal["cloud", "local"]
_BEGUN, _ITEM, _END, _FAILED = "begun", "item", "end", "failed"


@dataclass(frozen=True, slots=True)
class Hedged(Generic[T]):
    """An answer that two could give.

    Args:
        winner: whose it is.
        pieces: of the answer, as they come; closing them ends the winner's work.
        cloud_failure: why the cloud gave none, when it failed before it began; None otherwise.
    """

    winner: Side
    pieces: "Answering[T]"
    cloud_failure: Exception | None = None


def hedge(
    cloud: Callable[[], Iterator[T]], local: Callable[[], Iterator[T]], after_s: float
) -> Hedged[T]:
    """Return whichever answer begins first; the other is cancelled and nothing of it is shown.

    The local answer begins after `after_s` seconds, or as soon as the cloud fails. Once an answer
    has begun it stays: a failure later is raised from its pieces.

    Args:
        cloud, local: start an answer. Each runs in a thread of its own, with the caller's context
            variables; its iterator's `close` must be safe to call from another thread while it
            waits, or is called by its own thread after the piece in flight.
        after_s: seconds, >= 0.

    Raises:
        Exception: what the local answer failed with, when both failed before they began.
    """
    arrived: queue.Queue[tuple[Side, str]] = queue.Queue()
    first = Answering("cloud", cloud, arrived)
    first.start()
    second: Answering[T] | None = None
    failure: Exception | None = None
    timeout: float | None = after_s
    while True:
        try:
            side, what = arrived.get(timeout=timeout)
        except queue.Empty:
            side, what = "cloud", _FAILED  # late is as good as failed, but it may still win
        else:
            if side == "cloud" and what == _FAILED:
                failure = first.failure
        runner = first if side == "cloud" else second
        if what == _BEGUN and runner is not None:
            loser = second if runner is first else first
            if loser is not None:
                loser.cancel()
            return Hedged(side, runner, failure)
        if second is None:
            second, timeout = Answering("local", local, arrived), None
            second.start()
        elif second.failure is not None and failure is not None:
            raise second.failure


class Answering(Generic[T]):
    """One answer in a thread: its first piece is announced, the rest waits to be asked for."""

    def __init__(
        self, side: Side, begin: Callable[[], Iterator[T]], arrived: "queue.Queue[tuple[Side, str]]"
    ) -> None:
        self._side, self._begin, self._arrived = side, begin, arrived
        self._pieces: queue.Queue[tuple[str, T | None]] = queue.Queue(maxsize=64)
        self._cancelled = threading.Event()
        self._iterator: Iterator[T] | None = None
        self.failure: Exception | None = None
        self._over = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"hedge-{side}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """End it: at once where its iterator can be closed while it waits."""
        self._cancelled.set()
        cancel = getattr(self._iterator, "cancel", None)
        if cancel is not None:
            cancel()

    def __iter__(self) -> "Answering[T]":
        return self

    def __next__(self) -> T:
        what, piece = self._pieces.get() if not self._over else (_END, None)
        if what == _ITEM:
            return piece  # type: ignore[return-value]  # an item's piece is a T
        self._over = True
        if what == _FAILED and self.failure is not None:
            raise self.failure
        raise StopIteration

    def close(self) -> None:
        """End it, and what was not taken of it. Idempotent."""
        self._over = True
        self.cancel()

    def _run(self) -> None:
        begun = False
        try:
            self._iterator = iter(self._begin())
            if self._cancelled.is_set():
                self.cancel()
            for piece in self._iterator:
                if self._cancelled.is_set():
                    break
                self._put(_ITEM, piece)
                if not begun:
                    begun = True
                    self._arrived.put((self._side, _BEGUN))
        except Exception as failure:  # told to whoever waits for the pieces
            self.failure = failure
        finally:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()
            self._put(_FAILED if self.failure is not None else _END, None)
            if not begun:
                self._arrived.put((self._side, _FAILED if self.failure is not None else _BEGUN))

    def _put(self, what: str, piece: T | None) -> None:
        while not self._cancelled.is_set():
            try:
                self._pieces.put((what, piece), timeout=0.1)
                return
            except queue.Full:
                continue
