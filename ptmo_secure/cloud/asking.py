"""How a request is written for a provider: the body of the OpenAI API, within what it can do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ptmo_secure.cloud.providers import Provider
from ptmo_secure.cloud.types import CloudRequest, Message
from ptmo_secure.errors import InputError

_MAX_SEED = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Call:
    """A request in the words of the API.

    Args:
        legacy: whether it goes to /completions.
        fields: arguments of the SDK's `create`, without model and stream.
        extra: fields that the SDK has no argument for.
        body_bytes: how long its JSON is, about; at least what its texts take.
        messages: how many there are.
    """

    legacy: bool
    fields: Mapping[str, object]
    extra: Mapping[str, object]
    body_bytes: int
    messages: int


def written(request: CloudRequest, provider: Provider) -> Call:
    """Write a request for a provider.

    Ids of tool calls are numbered anew, in order of their first appearance, since an id that was
    made up elsewhere can look like a key and says nothing.

    Raises:
        InputError: the provider cannot do what is asked.
    """
    _need(provider, "logprobs", request.top_logprobs > 0)
    _need(provider, "tools", bool(request.tools))
    _need(provider, "completions", request.prompt is not None)
    _need(provider, "continue", request.continue_final)
    if request.top_logprobs > provider.top_logprobs_max:
        raise InputError(
            f"provider {provider.name}: top_logprobs is {request.top_logprobs}; it returns at most "
            f"{provider.top_logprobs_max}"
        )
    fields: dict[str, object] = {"temperature": request.temperature, "top_p": request.top_p}
    extra: dict[str, object] = {}
    legacy = request.prompt is not None
    fields["max_tokens" if legacy else provider.max_tokens_field] = request.max_tokens
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.seed is not None and "seed" in provider.features:
        fields["seed"] = request.seed & _MAX_SEED
    if legacy:
        fields["prompt"] = request.prompt
        if request.top_logprobs:
            fields["logprobs"] = request.top_logprobs
    else:
        fields["messages"] = _renumbered(request.messages or ())
        if request.tools:
            fields["tools"] = [dict(tool) for tool in request.tools]
        if request.top_logprobs:
            fields |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.continue_final and provider.continue_field is not None:
        extra = {provider.continue_field: True, "add_generation_prompt": False}
    try:
        size = len(json.dumps(fields | extra, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError):  # a lone surrogate, or nothing JSON knows
        raise InputError("the cloud request cannot be written as JSON") from None
    return Call(legacy, fields, extra, size, len(request.messages or ()))


def _need(provider: Provider, feature: str, wanted: bool) -> None:
    if wanted and feature not in provider.features:
        raise InputError(f"provider {provider.name} has no feature {feature!a}")


def _renumbered(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    numbers: dict[str, str] = {}

    def anew(ident: object) -> str:
        return numbers.setdefault(str(ident), f"call_{len(numbers) + 1}")

    written = []
    for message in messages:
        copy = dict(message)
        calls = copy.get("tool_calls")
        if isinstance(calls, (list, tuple)):
            copy["tool_calls"] = [
                {**call, "id": anew(call["id"])}
                if isinstance(call, Mapping) and "id" in call
                else call
                for call in calls
            ]
        if "tool_call_id" in copy:
            copy["tool_call_id"] = anew(copy["tool_call_id"])
        written.append(copy)
    return written
