"""Time, and threads that wait for work."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

Spawn = Callable[[Callable[[], None]], None]
LEAST_MARGIN_S = 0.002


class Clock(Protocol):
    """Time, and waiting; tests have one of their own."""

    @property
    def margin_s(self) -> float:
        """Seconds by which a wait has to end early, since whoever waited takes them to run on."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def wait(self, changed: threading.Condition, timeout_s: float) -> None:
        """Wait until `changed`, which is held, is notified, at most so long."""


class RealClock:
    """The machine's monotonic clock, which learns how late this machine wakes a thread.

    Where other work keeps the processors busy a wait may end tens of milliseconds late. The margin
    follows the worst lateness seen lately: it rises to it at once, and falls by 2 % a timeout.
    """

    def __init__(self) -> None:
        self.margin_s = LEAST_MARGIN_S

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, changed: threading.Condition, timeout_s: float) -> None:
        """Wait on the condition."""
        start_s = time.monotonic()
        if not changed.wait(timeout_s):
            late_s = time.monotonic() - start_s - timeout_s
            self.margin_s = max(LEAST_MARGIN_S, 1.25 * late_s, 0.98 * self.margin_s)


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
