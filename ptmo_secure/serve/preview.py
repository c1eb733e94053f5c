"""POST /x-ptmo/preview: what would become of a message, part by part, before it is sent."""

from dataclasses import asdict

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ptmo_secure.serve.answers import while_connected, x_headers
from ptmo_secure.serve.chat import as_message
from ptmo_secure.serve.routing import ChatRequest, PreviewedSegment
from ptmo_secure.serve.schemas import PreviewBody
from ptmo_secure.serve.service import Service


async def preview(service: Service, http: Request, body: PreviewBody) -> Response:
    """Tell the parts of the last message: level, why, where it would go, and what would be sent."""
    request = ChatRequest(
        messages=tuple(map(as_message, body.messages)),
        user=service.names.user(http.scope["state"]["key"], http.headers.get("x-ptmo-user")),
        local_only=body.x_ptmo.route == "local",
        keep_local=frozenset(body.x_ptmo.keep_local),
    )
    told = await while_connected(service, http, service.router.preview(request))
    routing = told.routing
    return JSONResponse(
        {
            "object": "x_ptmo.preview",
            "route": routing.route.value,
            "level": routing.level.value,
            "score": round(routing.score, 4),
            "reason": routing.reason,
            "found": dict(routing.found),
            "segments": [_segment(segment) for segment in told.segments],
        },
        headers={"cache-control": "no-store", **x_headers(routing)},
    )


def _segment(segment: PreviewedSegment) -> dict[str, object]:
    told = asdict(segment)
    return {**told, "level": segment.level.value, "route": segment.route.value}
