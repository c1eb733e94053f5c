"""A circuit breaker: a provider that keeps failing is left alone for a while.

closed: calls pass. After `failures` in a row it opens: calls are refused at once. After `open_s` it
is half-open: one call at a time is let through to try; success closes it, failure opens it again,
twice as long each time up to `longest_open_s` (Nygard, Release It!, 2nd ed., 2018, chapter 5).
"""

import threading
import time
from collections.abc import Callable
from enum import Enum

from ptmo_secure.errors import CloudError, InputError


class BreakerState(Enum):
    """What becomes of the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts a provider's failures. Thread-safe.

    Args:
        failures: in a row until it opens, 1 or more.
        open_s: seconds it stays open the first time, > 0.
        longest_open_s: and at most.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        failures: int = 5,
        open_s: float = 10.0,
        longest_open_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or not 0 < open_s <= longest_open_s:
            raise InputError(f"a breaker of {failures} failures and {open_s} s makes no sense")
        self._most, self._first_s, self._longest_s = failures, open_s, longest_open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._open_s = open_s
        self._opened: float | None = None  # when; None: closed
        self._trying = False

    @property
    def state(self) -> BreakerState:
        """The state now."""
        with self._lock:
            return self._state()

    def _state(self) -> BreakerState:
        if self._opened is None:
            return BreakerState.CLOSED
        waited = self._clock() - self._opened >= self._open_s
        return BreakerState.HALF_OPEN if waited else BreakerState.OPEN

    def enter(self) -> "Attempt":
        """Ask to make a call.

        Raises:
            CloudError: not now ("circuit_open").
        """
        with self._lock:
            state = self._state()
            if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._trying):
                raise CloudError("the provider failed too often: left alone", "circuit_open")
            probe = state is BreakerState.HALF_OPEN
            self._trying = self._trying or probe
        return Attempt(self, probe=probe)

    def _end(self, probe: bool, worked: bool | None) -> None:
        with self._lock:
            self._trying = self._trying and not probe
            if worked:
                self._failed, self._opened, self._open_s = 0, None, self._first_s
            elif worked is False:
                self._failed += 1
                if probe:
                    self._open_s = min(2 * self._open_s, self._longest_s)
                    self._opened = self._clock()
                elif self._failed >= self._most and self._opened is None:
                    self._opened = self._clock()


class Attempt:
    """One call that a breaker let through; its first verdict counts."""

    def __init__(self, breaker: CircuitBreaker, *, probe: bool) -> None:
        """Use `CircuitBreaker.enter`."""
        self._breaker, self._probe, self._open = breaker, probe, True

    def succeeded(self) -> None:
        """The provider answered."""
        self._end(worked=True)

    def failed(self) -> None:
        """The provider did not, or with an error of its own."""
        self._end(worked=False)

    def drop(self) -> None:
        """It was ended before anybody could say. Idempotent."""
        self._end(worked=None)

    def _end(self, *, worked: bool | None) -> None:
        if self._open:
            self._open = False
            self._breaker._end(self._probe, worked)
