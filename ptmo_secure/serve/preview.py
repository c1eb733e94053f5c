"""POST /x-ptmo/preview: what would become of a message, part by part, before it is sent."""

from dataclasses import asdict

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ptmo_secure.serve.answers import check_headers, named_model, while_connected, x_headers
from ptmo_secure.serve.chat import as_message, check_places
from ptmo_secure.serve.routing import ChatRequest, PreviewedSegment
from ptmo_secure.serve.schemas import PreviewBody
from ptmo_secure.serve.service import Service


async def preview(service: Service, http: Request, body: PreviewBody) -> Response:
    """Tell the parts of the last message: level, why, where each would go; and all that would."""
    check_headers(http)
    check_places(body)
    key = http.scope["state"]["key"]
    model, adapters = named_model(service, http, body)
    user = body.user or http.headers.get("x-ptmo-user")
    session = body.x_ptmo.session or http.headers.get("x-ptmo-session")
    request = ChatRequest(
        messages=tuple(map(as_message, body.messages)),
        tools=tuple(tool.model_dump(exclude_none=True) for tool in body.tools or ()),
        model=model,
        adapters=adapters,
        session=service.names.session(key, user, session) if user or session else None,
        user=service.names.user(key, user),
        local_only=body.x_ptmo.route == "local",
        keep_local=frozenset(body.x_ptmo.keep_local),
        keep_messages=frozenset(body.x_ptmo.keep_messages),
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
            "flow": told.flow,
            "segments": [_segment(segment) for segment in told.segments],
            "request": {"messages": list(told.messages), "tools": list(told.tools)}
            if told.messages
            else None,
        },
        headers={"cache-control": "no-store", **x_headers(routing)},
    )


def _segment(segment: PreviewedSegment) -> dict[str, object]:
    told = asdict(segment)
    return {**told, "level": segment.level.value, "route": segment.route.value}
