"""POST /v1/completions: text that goes on from a prompt."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ptmo_secure.cloud.types import Position
from ptmo_secure.serve.answers import (
    Asked,
    asked,
    events_of,
    streamed,
    usage,
    wanted_tokens,
    while_connected,
    x_headers,
    x_ptmo,
)
from ptmo_secure.serve.errors import ApiError
from ptmo_secure.serve.routing import ChatRequest, Event, Outcome, Piece, Routing
from ptmo_secure.serve.schemas import MAX_CHOICES, CompletionBody
from ptmo_secure.serve.service import Service

_DEFAULT_TOKENS = 16  # of the OpenAI API


async def complete(service: Service, http: Request, body: CompletionBody) -> Response:
    """Go on with one prompt or several, whole or as a stream."""
    requests = [
        ChatRequest(
            messages=None,
            prompt=prompt,
            max_tokens=wanted_tokens(service, body.max_tokens, _DEFAULT_TOKENS),
            top_logprobs=body.logprobs,
        )
        for prompt in body.prompts
    ]
    if len(requests) * body.n > MAX_CHOICES:
        raise ApiError(400, f"n: at most {MAX_CHOICES} choices are made", param="n")
    work = asked(service, http, body, requests, "cmpl")
    routing = await while_connected(service, http, _route(service, work.requests[:: body.n]))
    if body.stream:
        events = events_of(service, work, routing)
        chunks = _chunks(work, routing, events, body)
        return await streamed(service, http, events, chunks, x_headers(routing))
    texts = ["" for _ in work.requests]
    positions: list[list[Position]] = [[] for _ in work.requests]
    outcomes: dict[int, Outcome] = {}

    async def collect() -> None:
        async with aclosing(events_of(service, work, routing)) as events:
            async for index, event in events:
                if isinstance(event, Piece):
                    texts[index] += event.text
                    positions[index] += event.positions
                elif isinstance(event, Outcome):
                    outcomes[index] = event

    await while_connected(service, http, collect())
    ordered = [outcomes[index] for index in range(len(texts))]
    choices = [
        {
            "index": index,
            "text": text,
            "finish_reason": ordered[index].finish_reason,
            "logprobs": None if body.logprobs is None else _logprobs(positions[index], 0),
        }
        for index, text in enumerate(texts)
    ]
    told = {
        **_head(work),
        "choices": choices,
        "usage": usage(ordered, len(requests)),
        "x_ptmo": x_ptmo(routing, ordered),
    }
    return JSONResponse(told, headers=x_headers(routing, ordered))


async def _route(service: Service, requests: Sequence[ChatRequest]) -> Routing:
    """Route prompts together, by the most sensitive."""
    routings = [await service.router.route(request) for request in requests]
    return max(routings, key=lambda routing: routing.score)


async def _chunks(
    work: Asked,
    routing: Routing,
    events: AsyncIterator[tuple[int, Event]],
    body: CompletionBody,
) -> AsyncIterator[Mapping[str, object]]:
    head = _head(work)
    if body.include_usage:
        head["usage"] = None
    told = [0] * len(work.requests)  # characters so far
    outcomes: dict[int, Outcome] = {}
    async for index, event in events:
        if isinstance(event, Piece):
            logprobs = None
            if body.logprobs is not None:
                logprobs = _logprobs(event.positions, told[index])
            told[index] += len(event.text)
            yield {**head, "choices": [_choice(index, event.text, None, logprobs)]}
        elif isinstance(event, Outcome):
            outcomes[index] = event
            ordered = [outcomes[number] for number in sorted(outcomes)]
            last = len(outcomes) == len(work.requests)
            more = {"x_ptmo": x_ptmo(routing, ordered)} if last else {}
            yield {**head, "choices": [_choice(index, "", event.finish_reason, None)], **more}
    if body.include_usage:
        ordered = [outcomes[number] for number in sorted(outcomes)]
        yield {**head, "choices": [], "usage": usage(ordered, len(work.requests) // body.n)}


def _choice(
    index: int, text: str, reason: str | None, logprobs: Mapping[str, object] | None
) -> dict[str, object]:
    return {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}


def _head(work: Asked) -> dict[str, object]:
    return {
        "id": work.id,
        "object": "text_completion",
        "created": work.created,
        "model": work.model,
    }


def _logprobs(positions: Sequence[Position], offset: int) -> dict[str, object]:
    """Return the legacy form: parallel lists; of tokens that read the same the likelier."""
    offsets, at = [], offset
    for each in positions:
        offsets.append(at)
        at += len(each.chosen.token)
    tops = []
    for each in positions:
        top: dict[str, float] = {}
        for token in each.top:
            top.setdefault(token.token, token.logprob)
        tops.append(top)
    return {
        "tokens": [each.chosen.token for each in positions],
        "token_logprobs": [each.chosen.logprob for each in positions],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
