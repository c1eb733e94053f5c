"""What stands before the endpoints: who may ask, how much, how large; what is counted and logged.

Security: a log line has method, endpoint, status, milliseconds and sizes. Paths that are no
endpoint, query strings, headers, bodies and texts of exceptions are in none.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ptmo_secure.errors import InputError
from ptmo_secure.serve.errors import ApiError, api_error
from ptmo_secure.serve.service import Service
from ptmo_secure.serve.users import LOCAL_KEY, ApiKey

LOG = logging.getLogger("ptmo.serve")
_BODY_S = 30.0
_OPEN_PATHS = ("/", "/page.css", "/page.js", "/health")
ENDPOINTS = (
    *_OPEN_PATHS,
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/embeddings"),
    *("/x-ptmo/preview", "/metrics", "/openapi.json"),
)


class Gatekeeper:
    """An ASGI application around the endpoints."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            return
        response = _Response(send)
        started = time.perf_counter()
        endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
        if scope["path"].startswith("/v1/models/"):
            endpoint = "/v1/models"
        try:
            await self._admit(scope, receive, response)
        except Exception as failure:  # its text may quote what a user wrote
            error = api_error(failure)
            if not isinstance(failure, ApiError):
                LOG.error("%s: %s", endpoint, type(failure).__name__)
            if response.status == 0:
                await error.response()(scope, receive, response)
        finally:
            seconds = time.perf_counter() - started
            metrics = self._service.metrics
            metrics.requests.labels(endpoint, str(response.status or 499)).inc()
            metrics.seconds.labels(endpoint).observe(seconds)
            LOG.info(
                "%s %s %d %.1f ms %d bytes",
                scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other",
                endpoint,
                response.status or 499,
                1e3 * seconds,
                response.bytes,
            )

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_site(headers)
        if scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        key = self._key(headers)
        scope.setdefault("state", {})["key"] = key
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._service.rate.take(key.id)
        body = await self._body(headers, receive)
        with self._service.concurrency:
            self._service.metrics.in_flight.set(self._service.concurrency.now)
            try:
                await self._app(scope, _replayed(body, receive), send)
            finally:
                self._service.metrics.in_flight.set(self._service.concurrency.now - 1)

    def _check_site(self, headers: Headers) -> None:
        """Refuse other sites' pages: a name rebound to this machine, and another origin."""
        host = headers.get("host", "")
        allowed = self._service.settings.allowed_hosts
        if allowed and _hostname(f"//{host}") not in allowed:
            raise ApiError(403, "host: this server is not called that (--allow-host)", param="host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "origin: pages of other sites may not ask here", param="origin")

    def _key(self, headers: Headers) -> ApiKey:
        keys = self._service.keys
        try:
            keys.keys()
        except InputError:  # its text has the file's path; without the file nobody is let in
            raise ApiError(503, "the key file cannot be used", code="keys_unusable") from None
        if not keys.asked_for and not self._service.settings.needs_key:
            return LOCAL_KEY
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise ApiError(401, "authorization: give an API key", code="missing_api_key")
        key = keys.find(presented.strip())
        if key is None:
            raise ApiError(401, "authorization: unknown API key", code="invalid_api_key")
        return key

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._service.settings.max_body_bytes
        told = headers.get("content-length", "0")
        if not told.isdigit() or int(told) > limit:
            raise _too_large(limit)
        body = bytearray()
        more = True
        while more:
            try:
                message = await asyncio.wait_for(receive(), _BODY_S)
            except asyncio.TimeoutError:
                raise ApiError(408, f"the body did not come in {_BODY_S:g} s") from None
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the body was cut off")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)


class _Response:
    """Passes a response on, and remembers its status and size."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.bytes = 0, 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.bytes += len(message.get("body", b""))
        await self._send(message)


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Return a channel that gives a body that was read, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body has more than {limit} bytes", code="request_too_large")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
