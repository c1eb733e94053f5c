"""What can go wrong with a provider, as one kind of error each, without a word of the server's."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import openai

from ptmo_secure.cloud.answers import malformed
from ptmo_secure.cloud.retries import asked_wait_s
from ptmo_secure.errors import CloudError, PtmoError

# Of these the provider is the cause, and its circuit breaker counts them.
PROVIDERS_OWN = frozenset({"server", "connection", "timeout", "malformed", "too_large"})
# After these it certainly did not work on the request.
NOT_BILLED = frozenset({"rate_limited", "rejected", "server"})
_REJECTED = {
    401: "the provider does not take the key",
    403: "the provider does not allow this",
    404: "the provider knows no such model or endpoint",
}


class ProviderFailure(Exception):
    """A failed attempt.

    Args:
        error: what the caller is told.
        asked_s: seconds that the server asked to wait; None: nothing.
    """

    def __init__(self, error: CloudError, asked_s: float | None = None) -> None:
        super().__init__(error.code)
        self.error, self.asked_s = error, asked_s


@contextmanager
def providers_failures(now: Callable[[], float] = time.time) -> Iterator[None]:
    """Have whatever the SDK raises in a block become a `ProviderFailure`.

    What is ours (refusals, wrong arguments) passes as it is. Text of a server's is dropped: it may
    quote the request, or be written to be read by a model.

    Args:
        now: seconds since the epoch.
    """
    try:
        yield
    except CloudError as error:
        raise ProviderFailure(error) from None
    except PtmoError:
        raise
    except openai.APITimeoutError:
        raise ProviderFailure(
            CloudError("the provider did not answer in time", "timeout")
        ) from None
    except openai.APIStatusError as failed:
        raise _status(failed, now) from None
    except (openai.APIConnectionError, httpx2.TransportError):
        raise ProviderFailure(CloudError("the connection failed", "connection")) from None
    except openai.APIResponseValidationError:
        raise ProviderFailure(malformed("another shape")) from None
    except openai.APIError:  # an error event in a stream
        raise ProviderFailure(CloudError("the provider gave up on the answer", "server")) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LookupError):
        raise ProviderFailure(malformed("no JSON of the API")) from None


def _status(failed: openai.APIStatusError, now: Callable[[], float]) -> ProviderFailure:
    status = failed.status_code
    asked_s = asked_wait_s(failed.response.headers, now)
    if status == 429:
        return ProviderFailure(
            CloudError("the provider asks to slow down", "rate_limited"), asked_s
        )
    if status >= 500 or status in (408, 409):
        return ProviderFailure(CloudError(f"the provider failed ({status})", "server"), asked_s)
    said = _REJECTED.get(status, "the provider does not take this request")
    return ProviderFailure(CloudError(f"{said} ({status})", "rejected"))
