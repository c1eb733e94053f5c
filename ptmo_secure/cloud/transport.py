"""The transport that the OpenAI SDK's HTTP client gets: the one way out of the device.

It sees each request as it would be written to the socket, rebuilds its headers from a short list,
has `Egress` check and log it, and only then passes it on. Answers are limited in size, in the depth
of their JSON, and in time.
"""

import re
from collections.abc import Iterator

import httpx2

from ptmo_secure.cloud.egress import ENDPOINTS, Egress, Outgoing
from ptmo_secure.cloud.network import Wire, current_flight
from ptmo_secure.cloud.providers import Provider
from ptmo_secure.errors import CloudError

MAX_RESPONSE_BYTES = 4 << 20
MAX_JSON_DEPTH = 64
_AGENT = "ptmo-secure"
# Sent as they are, or set anew below. What the SDK tells of this machine (x-stainless-*: system,
# Python, versions) and of the account's organisation is left out.
_FIXED = frozenset(
    (
        "host accept content-type content-length authorization user-agent accept-encoding "
        "connection transfer-encoding"
    ).split()
)
_LEFT_OUT = ("x-stainless-", "openai-", "idempotency-key")
_ACCEPTED = ("application/json", "text/event-stream", "*/*")


class EgressTransport(httpx2.BaseTransport):
    """Checks, logs and sends the requests of one client.

    Args:
        egress: decides.
        provider: to whom; requests elsewhere are refused.
        model: name that the configuration gives, not the user; "" for none.
        key: the provider's; an Authorization header with another is refused.
        max_response_bytes: of an answer.
        wire: what sends.
    """

    def __init__(
        self,
        egress: Egress,
        provider: Provider,
        model: str = "",
        key: str | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        wire: httpx2.BaseTransport | None = None,
    ) -> None:
        self._egress, self._provider, self._key = egress, provider, key
        self.model = model
        self._most = max_response_bytes
        self._wire = wire or Wire()
        self._base = httpx2.URL(provider.base_url)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, if it may go.

        Raises:
            EgressRefusedError: it may not; nothing was sent.
            CloudError: the answer is too large, or not what was asked for.
            httpx2.TransportError: the connection failed.
        """
        body = request.read()
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        extra = tuple(
            (name, value)
            for name, value in headers
            if name not in _FIXED and not name.startswith(_LEFT_OUT)
        )
        going = Outgoing(
            self._provider.name,
            self.model,
            request.method,
            request.url.raw_path.decode("ascii", "replace"),
            extra,
            body,
        )
        if not self._is_known(request):
            self._egress.refuse(going, "endpoint")
        credential = dict(headers).get("authorization")
        if self._key is not None and credential not in (None, f"Bearer {self._key}"):
            self._egress.refuse(going, "credential")
        self._egress.check(going)
        try:
            response = self._wire.handle_request(self._rebuilt(request, body, extra))
        except httpx2.TransportError:
            flight = current_flight()
            if flight is not None and not flight.sent:  # nobody took the connection
                self._egress.not_left()
            raise
        return self._limited(response)

    def close(self) -> None:
        """End its connections."""
        self._wire.close()

    def _is_known(self, request: httpx2.Request) -> bool:
        url, base = request.url, self._base
        here = (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)
        paths = {base.path.rstrip("/") + end for end in ENDPOINTS}
        return here and url.path in paths and request.method in ("POST", "GET")

    def _rebuilt(
        self, request: httpx2.Request, body: bytes, extra: tuple[tuple[str, str], ...]
    ) -> httpx2.Request:
        accept = request.headers.get("accept", "*/*")
        headers = {
            "Host": request.url.netloc.decode("ascii"),
            "User-Agent": _AGENT,
            "Accept": accept if accept in _ACCEPTED else "*/*",
            "Accept-Encoding": "identity",  # an answer is as long as it looks
            "Connection": "keep-alive",
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        if body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return httpx2.Request(
            request.method,
            request.url,
            headers=[*headers.items(), *extra],
            content=body or None,
            extensions=request.extensions,
        )

    def _limited(self, response: httpx2.Response) -> httpx2.Response:
        stream = response.stream
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise CloudError("the provider sent an encoded answer unasked", "malformed")
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most:
            response.close()
            raise CloudError(_too_large(self._most), "too_large")
        if not isinstance(stream, httpx2.SyncByteStream):
            raise CloudError("the answer cannot be read as it comes", "malformed")
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Limited(stream, self._most),
            request=None,
            extensions=response.extensions,
        )


class _Limited(httpx2.SyncByteStream):
    """An answer that ends with an error when it is too long, too deep or too late."""

    def __init__(self, stream: httpx2.SyncByteStream, most: int) -> None:
        self._stream, self._most = stream, most

    def __iter__(self) -> Iterator[bytes]:
        size, depth = 0, JsonDepth(MAX_JSON_DEPTH)
        for chunk in filter(None, self._stream):
            size += len(chunk)
            if size > self._most:
                raise CloudError(_too_large(self._most), "too_large")
            depth.feed(chunk)
            flight = current_flight()
            if flight is not None and flight.left_s <= 0:
                raise httpx2.ReadTimeout("the deadline of the call is over")
            yield chunk

    def close(self) -> None:
        """Let go of the connection."""
        self._stream.close()


class JsonDepth:
    """Follows how deep JSON is nested while it comes, so that no parser meets a hostile one.

    Args:
        most: brackets that may be open at once.
    """

    _MARKS = re.compile(rb'\\.|["\[\]{}]|\n', re.DOTALL)

    def __init__(self, most: int) -> None:
        self._most, self._depth, self._in_string, self._cut = most, 0, False, False

    def feed(self, chunk: bytes) -> None:
        """Take what came; not empty.

        Raises:
            CloudError: too deep ("malformed").
        """
        if self._cut:  # the backslash that ended the last chunk covers this one's first byte
            chunk = chunk[1:]
        self._cut = bool((len(chunk) - len(chunk.rstrip(b"\\"))) % 2)
        for match in self._MARKS.finditer(chunk):
            mark = match[0]
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"\n":  # events are lines of their own, and JSON strings hold none
                self._in_string = False
            elif not self._in_string and mark in (b"[", b"{"):
                self._depth += 1
                if self._depth > self._most:
                    raise CloudError("the answer is nested too deep", "malformed")
            elif not self._in_string and mark in (b"]", b"}"):
                self._depth = max(0, self._depth - 1)


def _too_large(most: int) -> str:
    return f"the answer is longer than {most} bytes"
