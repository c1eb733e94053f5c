"""POST /v1/chat/completions."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request
from starlette.responses import JSONResponse, Response

from ptmo_secure.cloud.types import Message, Position, TokenLogprob
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
from ptmo_secure.serve.routing import ChatRequest, Event, Outcome, Piece, Routing, ToolCall
from ptmo_secure.serve.schemas import ChatBody, MessageBody, NamedTool, PreviewBody
from ptmo_secure.serve.service import Service


async def answer_chat(service: Service, http: Request, body: ChatBody) -> Response:
    """Answer a conversation, whole or as a stream."""
    check_places(body)
    request = ChatRequest(
        messages=tuple(map(as_message, body.messages)),
        max_tokens=wanted_tokens(service, body.max_completion_tokens, body.max_tokens),
        tools=_tools(body),
        must_call=_must_call(body),
        json_answer=body.response_format is not None and body.response_format.type == "json_object",
        top_logprobs=body.wanted_logprobs,
        continue_final=body.continue_final_message,
    )
    work = asked(service, http, body, [request], "chatcmpl")
    routing = await while_connected(service, http, service.router.route(work.requests[0]))
    form = _Form(body.logprobs or False, isinstance(body.tool_choice, NamedTool))
    if body.stream:
        events = events_of(service, work, routing)
        chunks = _chunks(work, routing, events, form, body.include_usage)
        return await streamed(service, http, events, chunks, x_headers(routing))
    choices = await while_connected(service, http, _collect(service, work, routing))
    outcomes = [choice.outcome for choice in choices if choice.outcome is not None]
    told = {
        **_head(work, "chat.completion"),
        "choices": [choice.whole(index, form) for index, choice in enumerate(choices)],
        "usage": usage(outcomes),
        "x_ptmo": x_ptmo(routing, outcomes),
    }
    return JSONResponse(told, headers=x_headers(routing, outcomes))


def check_places(body: ChatBody | PreviewBody) -> None:
    """Refuse a wish to keep a message that is none: what was meant by it would leave.

    Raises:
        ApiError: a place of `keep_messages` is not that of an earlier message of the user's or a
            tool's. The last message has `route` and `keep_local`; an answer stays with what it
            answers.
    """
    earlier = body.messages[:-1]
    meant = {at for at, each in enumerate(earlier) if each.role in ("user", "tool")}
    if not meant.issuperset(body.x_ptmo.keep_messages):
        field_name = "x_ptmo.keep_messages"
        said = f"{field_name}: places, from 0, of earlier messages of the user's or of a tool's"
        raise ApiError(400, said, param=field_name, code="invalid_value")


def as_message(message: MessageBody) -> Message:
    """Return a message as routers take it: its content one text, "developer" a system's."""
    role = "system" if message.role == "developer" else message.role
    told: dict[str, object] = {"role": role, "content": message.text}
    if message.tool_calls:
        told["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        told["name"] = message.name
    return told


@dataclass(frozen=True, slots=True)
class _Form:
    """How choices are told."""

    logprobs: bool
    named_tool: bool  # the caller chose the function, so the answer's end is a plain "stop"

    def finish_reason(self, outcome: Outcome | None, calls: int) -> str:
        reason = "stop" if outcome is None else outcome.finish_reason
        return "tool_calls" if calls and reason == "stop" and not self.named_tool else reason


@dataclass(slots=True)
class _Choice:
    """One choice while it is being put together."""

    text: str = ""
    calls: list[dict[str, object]] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    outcome: Outcome | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.text += event.text
            self.positions += event.positions
        elif isinstance(event, ToolCall):
            self.calls.append(_call(event))
        else:
            self.outcome = event

    def whole(self, index: int, form: _Form) -> dict[str, object]:
        message: dict[str, object] = {
            "role": "assistant",
            "content": self.text if self.text.strip() or not self.calls else None,
            "refusal": None,
        }
        if self.calls:
            message["tool_calls"] = self.calls
        return {
            "index": index,
            "message": message,
            "finish_reason": form.finish_reason(self.outcome, len(self.calls)),
            "logprobs": _logprobs(self.positions) if form.logprobs else None,
        }


async def _collect(service: Service, work: Asked, routing: Routing) -> list[_Choice]:
    choices = [_Choice() for _ in work.requests]
    async with aclosing(events_of(service, work, routing)) as events:
        async for index, event in events:
            choices[index].add(event)
    return choices


async def _chunks(
    work: Asked,
    routing: Routing,
    events: AsyncIterator[tuple[int, Event]],
    form: _Form,
    include_usage: bool,
) -> AsyncIterator[Mapping[str, object]]:
    """Yield the chunks of a stream: a role, pieces, an end for each choice, then the usage."""
    head = _head(work, "chat.completion.chunk")
    if include_usage:
        head["usage"] = None
    begun: set[int] = set()
    calls = [0] * len(work.requests)
    outcomes: dict[int, Outcome] = {}
    async for index, event in events:
        if index not in begun:
            begun.add(index)
            yield {**head, "choices": [_delta(index, {"role": "assistant", "content": ""})]}
        if isinstance(event, Piece):
            logprobs = _logprobs(event.positions) if form.logprobs else None
            if event.text or event.positions:
                yield {**head, "choices": [_delta(index, {"content": event.text}, logprobs)]}
        elif isinstance(event, ToolCall):
            told = {"tool_calls": [{"index": calls[index], **_call(event)}]}
            calls[index] += 1
            yield {**head, "choices": [_delta(index, told)]}
        else:
            outcomes[index] = event
            end = {**_delta(index, {}), "finish_reason": form.finish_reason(event, calls[index])}
            last = len(outcomes) == len(work.requests)
            ordered = [outcomes[number] for number in sorted(outcomes)]
            more = {"x_ptmo": x_ptmo(routing, ordered)} if last else {}
            yield {**head, "choices": [end], **more}
    if include_usage:
        ordered = [outcomes[number] for number in sorted(outcomes)]
        yield {**head, "choices": [], "usage": usage(ordered)}


def _head(work: Asked, kind: str) -> dict[str, object]:
    return {"id": work.id, "object": kind, "created": work.created, "model": work.model}


def _delta(
    index: int, delta: Mapping[str, object], logprobs: Mapping[str, object] | None = None
) -> dict[str, object]:
    return {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}


def _call(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _logprobs(positions: Sequence[Position]) -> dict[str, object]:
    content = [
        {**_token(each.chosen), "top_logprobs": [_token(token) for token in each.top]}
        for each in positions
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def _tools(body: ChatBody) -> tuple[Mapping[str, object], ...]:
    if body.tool_choice == "none":
        return ()
    return tuple(tool.model_dump(exclude_none=True) for tool in body.tools or ())


def _must_call(body: ChatBody) -> tuple[str, ...]:
    if isinstance(body.tool_choice, NamedTool):
        return (body.tool_choice.function.name,)
    if body.tool_choice == "required":
        return tuple(tool.function.name for tool in body.tools or ())
    return ()
