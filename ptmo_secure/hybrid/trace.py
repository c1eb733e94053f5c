"""Times the steps of one request."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptmo_secure.types import TraceStep


class Trace:
    """The steps of one request, one after another; work in other threads has no step of its own.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self.steps: list[TraceStep] = []

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, object]]:
        """Time a block; the facts it puts into the dictionary go into the trace."""
        facts: dict[str, object] = {}
        start = self._clock()
        yield facts
        self.steps.append(TraceStep(name, 1e3 * (self._clock() - start), facts))

    def wall_ms(self) -> float:
        """Milliseconds since the request began."""
        return 1e3 * (self._clock() - self._start)
