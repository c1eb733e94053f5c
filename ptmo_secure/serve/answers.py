"""What chat and completions have in common: who asks for what, several choices, streams."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse

from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.serve.errors import ApiError, api_error
from ptmo_secure.serve.routing import ChatRequest, Event, Outcome, Routing, happened
from ptmo_secure.serve.schemas import ChatBody, CompletionBody, PreviewBody
from ptmo_secure.serve.service import Service
from ptmo_secure.serve.users import LOCAL_KEY, ApiKey

_T = TypeVar("_T")
_SEEDS = 1 << 63
_HEADERS = frozenset(("x-ptmo-user", "x-ptmo-session", "x-ptmo-adapters"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a client's: its choices, and what its chunks have in common."""

    id: str
    model: str
    requests: tuple[ChatRequest, ...]  # one a choice
    created: int
    started: float  # perf_counter


def asked(
    service: Service,
    http: Request,
    body: ChatBody | CompletionBody,
    requests: Sequence[ChatRequest],
    kind: str,
) -> Asked:
    """Give requests what stands in headers and common fields; `n` choices of each.

    Raises:
        ApiError: an unknown model, adapter or option, or one that the key may not use.
    """
    check_headers(http)
    key: ApiKey = http.scope["state"]["key"]
    user = body.user or http.headers.get("x-ptmo-user")
    session = body.x_ptmo.session or http.headers.get("x-ptmo-session")
    model, adapters = named_model(service, http, body)
    named = max(len(name or "") for name in (user, session))
    if named > 128:
        raise ApiError(400, "user: more than 128 characters", param="user")
    kept = service.names.session(key, user, session) if user or session else None
    choices: list[ChatRequest] = []
    for each in requests:
        for _ in range(body.n):
            number = len(choices)
            seed = None if body.seed is None else (body.seed + number) % _SEEDS
            choices.append(
                replace(
                    each,
                    sampling=SamplingParams(body.temperature, 0, body.top_p, 1.0, seed),
                    stop=body.stops,
                    adapters=adapters,
                    model=model,
                    session=kept if number == 0 else None,
                    user=service.names.user(key, user),
                    local_only=body.x_ptmo.route == "local",
                    keep_local=frozenset(body.x_ptmo.keep_local),
                    keep_messages=frozenset(body.x_ptmo.keep_messages),
                )
            )
    name = f"{kind}-{secrets.token_hex(12)}"
    return Asked(name, body.model, tuple(choices), int(time.time()), time.perf_counter())


def check_headers(http: Request) -> None:
    """Refuse options in headers that this server does not know: it would not keep to them.

    Raises:
        ApiError: there is one.
    """
    if any(name.startswith("x-ptmo-") and name not in _HEADERS for name in http.headers):
        known = ", ".join(sorted(_HEADERS))
        raise ApiError(400, f"headers: of x-ptmo-... only {known} are taken", param="headers")


def named_model(
    service: Service, http: Request, body: ChatBody | CompletionBody | PreviewBody
) -> tuple[str, tuple[str, ...]]:
    """Return which model answers, as `ChatRequest` names it, and with which adapters.

    Raises:
        ApiError: an unknown model or adapter, or one that the key may not use.
    """
    key: ApiKey = http.scope["state"]["key"]
    model, *suffixes = (body.model or service.settings.model).split("+")
    is_other = model in service.settings.others
    if model != service.settings.model and not is_other:
        raise ApiError(
            404,
            "model: this server answers by no such model; GET /v1/models lists those it has",
            param="model",
            code="model_not_found",
        )
    header = http.headers.get("x-ptmo-adapters", "")
    listed = [part.strip() for part in header.split(",") if part.strip()]
    names = tuple(dict.fromkeys(suffixes or body.x_ptmo.adapters or listed))
    allowed = service.adapters if key is LOCAL_KEY else key.adapters
    if names and is_other:
        raise ApiError(
            404,
            f"model: the adapters are {service.settings.model}'s, this one has none",
            param="model",
            code="model_not_found",
        )
    if any(name not in service.adapters or name not in allowed for name in names):
        raise ApiError(
            404,
            "model: no such adapter, or not one for this key",
            param="model",
            code="model_not_found",
        )
    return (model if is_other else ""), names


def wanted_tokens(service: Service, *given: int | None) -> int:
    """Return the first length that was given, at most the server's own limit."""
    most = service.settings.max_tokens
    return min(next((tokens for tokens in given if tokens is not None), most), most)


async def events_of(
    service: Service, asked: Asked, routing: Routing
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield what the choices give as it comes, each with the number of its choice.

    Closing it cancels what is not done. When one fails all end.
    """
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    def cut() -> None:
        ending = ApiError(503, "the server is shutting down", code="shutting_down")
        queue.put_nowait((0, ending))

    async def run(index: int, request: ChatRequest) -> None:
        try:
            async with aclosing(service.router.answer(request, routing)) as events:
                async for event in events:
                    queue.put_nowait((index, event))
            queue.put_nowait((index, None))
        except Exception as failure:
            queue.put_nowait((index, failure))

    tasks = [asyncio.create_task(run(i, request)) for i, request in enumerate(asked.requests)]
    first, left = True, len(tasks)
    service.cuts.add(cut)
    try:
        while left:
            index, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                left -= 1
                continue
            if first and not isinstance(event, Outcome):
                seconds = time.perf_counter() - asked.started
                service.metrics.first_token_seconds.observe(seconds)
                first = False
            if isinstance(event, Outcome):
                service.metrics.count(routing, event)
            yield index, event
    finally:
        service.cuts.discard(cut)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(
    service: Service, http: Request, work: Coroutine[object, object, _T]
) -> _T:
    """Return what the work gives, unless the client leaves before: then it is cancelled.

    Raises:
        ApiError: 499, which nobody reads.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        service.metrics.disconnects.inc()
        raise ApiError(499, "the client left")
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def streamed(
    service: Service,
    http: Request,
    events: AsyncIterator[tuple[int, Event]],
    chunks: AsyncIterator[Mapping[str, object]],
    headers: Mapping[str, str],
) -> StreamingResponse:
    """Return a response of server-sent events, once its first chunk is there.

    So a request that fails before its first token gets a status of its own; one that fails later
    ends with an error event.

    Args:
        events: what the chunks are made of; it is closed at the end.
        chunks: the objects to send.
        headers: of the response.
    """
    first = await while_connected(service, http, _next(chunks))

    async def body() -> AsyncIterator[bytes]:
        ended = False
        try:
            if first is not None:
                yield _event(first)
                async for chunk in chunks:
                    yield _event(chunk)
            yield b"data: [DONE]\n\n"
            ended = True
        except Exception as failure:
            ended = True
            yield _event(api_error(failure).body())
        finally:
            if not ended:
                service.metrics.disconnects.inc()
            for each in (chunks, events):
                await _close(each)

    told = {"cache-control": "no-store", "x-accel-buffering": "no", **headers}
    return StreamingResponse(body(), media_type="text/event-stream", headers=told)


async def _next(chunks: AsyncIterator[Mapping[str, object]]) -> Mapping[str, object] | None:
    return await anext(chunks, None)


async def _close(iterator: AsyncIterator[object]) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


def _event(value: Mapping[str, object]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


# ---------------------------------------------------------------- what is told of an answer


def usage(outcomes: Sequence[Outcome], prompts: int = 1) -> dict[str, object]:
    """Return the usage object: a prompt counts once, however many choices it has.

    Args:
        outcomes: of the choices, prompt by prompt.
        prompts: how many there were.
    """
    each = max(1, len(outcomes) // prompts)
    prompt = sum(outcome.prompt_tokens for outcome in outcomes[::each])
    made = sum(outcome.completion_tokens for outcome in outcomes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(o.cached_tokens for o in outcomes[::each])},
    }


def x_ptmo(routing: Routing, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return what only this server tells: codes, kinds and counts; of what happened, if known."""
    routing = happened(routing, outcomes)
    facts: dict[str, object] = {}
    for outcome in outcomes:
        facts |= outcome.facts
    return {
        "route": routing.route.value,
        "level": routing.level.value,
        "score": round(routing.score, 4),
        "reason": routing.reason,
        "found": dict(routing.found),
        "masked": dict(routing.masked),
        "crossings": sum(outcome.crossings for outcome in outcomes),
        "cost": {
            "usd": sum(outcome.usd for outcome in outcomes),
            "seconds": round(max((o.seconds for o in outcomes), default=0.0), 6),
        },
        **facts,
    }


def x_headers(routing: Routing, outcomes: Sequence[Outcome] = ()) -> dict[str, str]:
    """Return the headers; of what is planned, and once the answer has ended, of what happened."""
    routing = happened(routing, outcomes)
    masked = ",".join(f"{kind}={count}" for kind, count in sorted(routing.masked.items()))
    told = {
        "x-ptmo-route": routing.route.value,
        "x-ptmo-level": routing.level.value,
        "x-ptmo-masked": masked or "none",
    }
    if outcomes:
        told["x-ptmo-crossings"] = str(sum(outcome.crossings for outcome in outcomes))
        told["x-ptmo-cost-usd"] = f"{sum(outcome.usd for outcome in outcomes):.6f}"
    return told
