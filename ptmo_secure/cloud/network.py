"""The wire under the egress transport: HTTP over sockets that keep one deadline and can be cut.

Timeouts of HTTP clients count per read, so a server that sends a byte now and then holds a call
for ever. Here every read and write of a call has what is left until the call's one deadline, and
another thread can cut the call while it waits.

Security: nothing is sent that `EgressTransport` did not pass on. Proxies of the environment and
redirects are not followed: both would send a checked request to somebody else.
"""

import contextvars
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import httpx2

_MAX_CONNECTIONS, _KEPT, _KEPT_S = 128, 16, 30.0
_FLIGHT: contextvars.ContextVar["Flight | None"] = contextvars.ContextVar("flight", default=None)


class Flight:
    """One call's deadline, and the socket it has. Thread-safe.

    Args:
        seconds: until the deadline.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begun = clock()
        self._end = self.begun + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.cancelled = False
        self.sent = False  # whether anything of the request was written

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 when it is over or the call was cut."""
        return 0.0 if self.cancelled else max(0.0, self._end - self._clock())

    @property
    def seconds(self) -> float:
        """Seconds since the call began."""
        return self._clock() - self.begun

    def cancel(self) -> None:
        """Cut the call: a read that waits returns at once. Idempotent."""
        with self._lock:
            self.cancelled = True
            if self._socket is not None:
                with suppress(OSError):  # TLS would want to say goodbye first: cut below it
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def attach(self, used: socket.socket | None) -> None:
        """Say which socket the call has."""
        with self._lock:
            self._socket = used

    @contextmanager
    def current(self) -> Iterator[None]:
        """Have the calls of this block keep this deadline."""
        token = _FLIGHT.set(self)
        try:
            yield
        finally:
            _FLIGHT.reset(token)


def current_flight() -> Flight | None:
    """Return the call that this code runs for."""
    return _FLIGHT.get()


class Wire(httpx2.BaseTransport):
    """Sends requests as they are, with a pool of kept connections. Thread-safe."""

    def __init__(self) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_KEPT,
            keepalive_expiry=_KEPT_S,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the head of its response; the body is read later.

        Raises:
            httpx2.TransportError: as httpx2's own transport does.
        """
        sent = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.content,
            extensions=request.extensions,
        )
        with _errors():
            response = self._pool.handle_request(sent)
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions={},
        )

    def close(self) -> None:
        """End every connection."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _Backend(httpcore2.SyncBackend):
    """Sockets whose every wait ends with the call's deadline."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect."""
        wait = _wait(timeout, httpcore2.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, wait, local_address, socket_options))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what comes before the deadline."""
        wait = self._begin(timeout, httpcore2.ReadTimeout)
        data = self._inner.read(max_bytes, wait)
        _wait(None, httpcore2.ReadTimeout)  # a cut socket looks like an end
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write before the deadline."""
        wait = self._begin(timeout, httpcore2.WriteTimeout)
        flight = _FLIGHT.get()
        if flight is not None:
            flight.sent = True
        self._inner.write(buffer, wait)

    def close(self) -> None:
        """Close the socket."""
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """Go on under TLS."""
        wait = self._begin(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, wait))

    def get_extra_info(self, info: str) -> Any:
        """Return what the socket says of itself."""
        return self._inner.get_extra_info(info)

    def _begin(self, timeout: float | None, late: type[Exception]) -> float | None:
        flight = _FLIGHT.get()
        if flight is not None:
            flight.attach(self._inner.get_extra_info("socket"))
        return _wait(timeout, late)


def _wait(timeout: float | None, late: type[Exception]) -> float | None:
    """Return how long a wait may be."""
    flight = _FLIGHT.get()
    if flight is None:
        return timeout
    left = flight.left_s
    if left <= 0:
        raise late("the call was cut" if flight.cancelled else "the deadline of the call is over")
    return left if timeout is None else min(timeout, left)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise httpcore2's errors as httpx2's, whose text is ours: a server's could be anything."""
    try:
        yield
    except httpcore2.ConnectTimeout:
        raise httpx2.ConnectTimeout("connecting took too long") from None
    except httpcore2.TimeoutException:
        raise httpx2.ReadTimeout("no answer in time") from None
    except (httpcore2.ConnectError, httpcore2.UnsupportedProtocol):
        raise httpx2.ConnectError("no connection") from None
    except httpcore2.NetworkError:
        raise httpx2.ReadError("the connection broke") from None
    except httpcore2.ProtocolError:
        raise httpx2.RemoteProtocolError("the server does not speak HTTP as it should") from None
