"""Time, and threads that wait for work."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

Spawn = Callable[[Callable[[], None]], None]


class Clock(Protocol):
    """Time, and waiting; tests have one of their own."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def wait(self, changed: threading.Condition, timeout_s: float) -> None:
        """Wait until `changed`, which is held, is notified, at most so long."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, changed: threading.Condition, timeout_s: float) -> None:
        """Wait on the condition."""
        changed.wait(timeout_s)


class Workers:
    """A few threads; handing work to them costs no start of a thread, so no token waits for that.

    They never keep the process from ending, and end themselves after `close`, each with its work.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = count
        for _ in range(count):
            threading.Thread(target=self._serve, name="ptmo-fusion", daemon=True).start()

    def __call__(self, work: Callable[[], None]) -> None:
        """Have the work done by the first thread that is free."""
        self._work.put(work)

    def close(self) -> None:
        """Let the threads end. Idempotent."""
        for _ in range(self._count):
            self._work.put(None)
        self._count = 0

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
