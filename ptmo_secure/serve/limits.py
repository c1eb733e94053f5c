"""How much one may ask: requests a minute per key, and requests at once."""

import time
from collections import OrderedDict
from collections.abc import Callable

from ptmo_secure.serve.errors import ApiError

_MAX_BUCKETS = 4096


class RateLimit:
    """A token bucket per name. For one thread: the event loop's.

    Args:
        per_minute: requests a minute, > 0; None is no limit.
        burst: requests that may come at once, >= 1.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        per_minute: float | None,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._burst, self._clock = float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def take(self, name: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429, with the seconds until one may come.
        """
        if self._per_second is None:
            return
        now = self._clock()
        tokens, then = self._buckets.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        if tokens < 1:
            self._buckets[name] = (tokens, now)
            wait_s = (1 - tokens) / self._per_second
            raise ApiError(
                429,
                f"more than {60 * self._per_second:g} requests a minute: wait {wait_s:.1f} s",
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
            )
        self._buckets[name] = (tokens - 1, now)
        while len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)


class Concurrency:
    """Requests that are being answered. For one thread: the event loop's.

    Args:
        most: at once, >= 1.
    """

    def __init__(self, most: int) -> None:
        self._most, self.now = most, 0

    def __enter__(self) -> None:
        if self.now >= self._most:
            raise ApiError(
                503,
                f"{self._most} requests are being answered, no more are taken at once",
                code="overloaded",
                retry_after_s=1,
            )
        self.now += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1
