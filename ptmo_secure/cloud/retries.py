"""When to try again: exponential backoff with full jitter, inside a deadline.

Waits are uniform in [0, min(longest_s, base_s 2^n)] (Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). What the server asks for (Retry-After, RFC 9110 section 10.2.3) comes on
top, so that many clients told the same do not return together.
"""

import email.utils
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ptmo_secure.errors import CloudError, InputError

RETRIED = frozenset({"rate_limited", "server", "connection", "timeout", "malformed"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long apart.

    Args:
        attempts: calls in all, 1 or more.
        base_s, longest_s: of the wait before a retry, >= 0.
    """

    attempts: int = 3
    base_s: float = 0.5
    longest_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.base_s <= self.longest_s:
            raise InputError(f"{self} makes no sense")

    def wait_s(self, retry: int, asked_s: float | None, draw: random.Random) -> float:
        """Return the wait before a retry.

        Args:
            retry: 0 for the first one.
            asked_s: what the server asked for; None: nothing.
            draw: of the jitter.
        """
        jitter = draw.uniform(0, min(self.longest_s, self.base_s * 2.0 ** min(retry, 60)))
        return jitter + (asked_s or 0.0)

    def check(self, failure: CloudError, retry: int, wait_s: float, left_s: float) -> None:
        """Raise the failure when it is not to be tried again.

        Args:
            failure: of the last call.
            retry: 0 for the first one.
            wait_s: of `wait_s`.
            left_s: seconds until the deadline.
        """
        if failure.code not in RETRIED or retry + 1 >= self.attempts or wait_s >= left_s:
            raise failure


def asked_wait_s(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Return the seconds that a response's Retry-After asks for; None: nothing that can be read.

    Args:
        headers: of the response.
        now: seconds since the epoch, for the form that is a date.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value.replace(".", "", 1).isdigit() else None
        if seconds is None:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
