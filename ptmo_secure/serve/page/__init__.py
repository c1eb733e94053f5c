"""The page at /: plain files of this package, under a policy that lets nothing else in."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_FILES = (
    ("/", "page.html", "text/html"),
    ("/page.css", "page.css", "text/css"),
    ("/page.js", "page.js", "text/javascript"),
)


def add_page(app: FastAPI) -> None:
    """Serve the page's files; they are read once."""
    for path, name, kind in _FILES:
        app.add_api_route(path, _file(name, kind), methods=["GET"], include_in_schema=False)


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    data = (files(__package__) / name).read_bytes()

    async def give() -> Response:
        return Response(data, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)

    return give
