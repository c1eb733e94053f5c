"""What a provider sent, checked piece by piece and made into our own values.

The SDK takes whatever JSON comes without looking. Here every field is looked at once, and one that
makes no sense is a `CloudError` ("malformed") whose text quotes nothing of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ptmo_secure.cloud.types import MAX_TOP_LOGPROBS, CloudDelta, Position, TokenLogprob
from ptmo_secure.errors import CloudError

_MAX_TOOL_CALLS = 64
_MOST_LOGPROB, _LEAST_LOGPROB = 1e-3, -1e6  # rounding above 0; -9999 and the like stand for "never"
_MOST_MASS = 1.02  # of the top alternatives together, rounding included
_MAX_TOKENS = 1 << 31


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them."""

    prompt_tokens: int
    completion_tokens: int


def malformed(what: str) -> CloudError:
    """Return the error for an answer that makes no sense."""
    return CloudError(f"the provider's answer makes no sense: {what}", "malformed")


def choice_of(answer: object) -> Mapping[str, object] | None:
    """Return the first choice of an answer or chunk; None when it has none.

    Raises:
        CloudError: it is no object with a list of choices.
    """
    if not isinstance(answer, Mapping):
        raise malformed("no JSON object")
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, Mapping) for one in choices):
        raise malformed("no choices")
    first: Mapping[str, object] | None = choices[0] if choices else None
    return first


def usage_of(answer: Mapping[str, object]) -> Usage | None:
    """Return what the provider counted; None when it says nothing that can be true."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (_count(value) for value in counts)
    return None if prompt is None or completion is None else Usage(prompt, completion)


def delta_of(choice: Mapping[str, object], field: str) -> CloudDelta:
    """Return the content of a choice.

    Args:
        choice: of an answer or a chunk.
        field: "message", "delta", or "text" for the legacy endpoint.

    Raises:
        CloudError: a field of it makes no sense.
    """
    reason = choice.get("finish_reason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > 64):
        raise malformed("finish_reason")
    positions = _positions(choice.get("logprobs"))
    if field == "text":
        return CloudDelta(_text(choice.get("text"), "text"), (), reason, positions)
    message = choice.get(field)
    if message is None:
        message = {}
    if not isinstance(message, Mapping):
        raise malformed(field)
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)) or len(calls) > _MAX_TOOL_CALLS:
        raise malformed("tool_calls")
    whole = field == "message"
    tools = tuple(_tool_call(call, whole=whole) for call in calls)
    text = _text(message.get("content"), "content")
    return CloudDelta(text, tools, reason, positions)


def joined_calls(pieces: list[Mapping[str, object]]) -> tuple[Mapping[str, object], ...]:
    """Return whole tool calls from the pieces of a stream, in the order of their index.

    Raises:
        CloudError: a call without a name.
    """
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        index, function = piece["index"], piece["function"]
        if not isinstance(index, int) or not isinstance(function, Mapping):
            raise malformed("tool_calls")
        call = calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or str(piece["id"])
        call["name"] += str(function["name"])
        call["arguments"] += str(function["arguments"])
    if not all(call["name"] for call in calls.values()):
        raise malformed("tool_calls")
    return tuple(
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for _, call in sorted(calls.items())
    )


def _tool_call(call: object, *, whole: bool) -> Mapping[str, object]:
    if not isinstance(call, Mapping) or not isinstance(call.get("function", {}), Mapping):
        raise malformed("tool_calls")
    function = call.get("function", {})
    parts = {name: _text(function.get(name), "tool_calls") for name in ("name", "arguments")}
    ident = _text(call.get("id"), "tool_calls")
    if whole:
        if not parts["name"]:
            raise malformed("tool_calls")
        return {"id": ident, "type": "function", "function": parts}
    index = call.get("index", 0)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < _MAX_TOOL_CALLS:
        raise malformed("tool_calls")
    return {"index": index, "id": ident, "type": "function", "function": parts}


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise malformed(what)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise malformed(what) from None
    return value


def _positions(logprobs: object) -> tuple[Position, ...]:
    if logprobs is None:
        return ()
    if not isinstance(logprobs, Mapping):
        raise malformed("logprobs")
    content = logprobs.get("content")
    if content is None:
        return _legacy(logprobs) if "tokens" in logprobs else ()
    if not isinstance(content, list):
        raise malformed("logprobs")
    return tuple(_position(item) for item in content)


def _position(item: object) -> Position:
    top = item.get("top_logprobs") if isinstance(item, Mapping) else None
    if top is not None and (not isinstance(top, list) or len(top) > MAX_TOP_LOGPROBS):
        raise malformed("logprobs")
    return _checked(_token(item), [_token(one) for one in top or ()])


def _token(item: object) -> TokenLogprob:
    if not isinstance(item, Mapping) or not isinstance(item.get("token"), str):
        raise malformed("logprobs")
    token, given = _text(item["token"], "logprobs"), item.get("bytes")
    if given is None:
        data = token.encode()
    elif isinstance(given, list) and all(type(b) is int and 0 <= b < 256 for b in given):
        data = bytes(given)
    else:
        raise malformed("logprobs")
    return TokenLogprob(token, data, _logprob(item.get("logprob")))


def _legacy(logprobs: Mapping[str, object]) -> tuple[Position, ...]:
    """Read the form of /completions: lists of tokens, log-probabilities and {token: logprob}."""
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    tops = logprobs.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise malformed("logprobs")
    if tops is None:
        tops = [{}] * len(tokens)
    if not isinstance(tops, list) or len(tops) != len(tokens):
        raise malformed("logprobs")
    positions = []
    for token, value, top in zip(tokens, values, tops, strict=True):
        if value is None:  # the first token of an echoed prompt has none
            continue
        rows = top if isinstance(top, Mapping) else {}
        # The token that was chosen comes beyond the number that was asked for
        if len(rows) > MAX_TOP_LOGPROBS + 1:
            raise malformed("logprobs")
        alternatives = [TokenLogprob(*_named(name), _logprob(lp)) for name, lp in rows.items()]
        positions.append(_checked(TokenLogprob(*_named(token), _logprob(value)), alternatives))
    return tuple(positions)


def _named(token: object) -> tuple[str, bytes]:
    r"""Return text and bytes of a legacy token; parts of characters come as `bytes:\xe2\x82`."""
    text = _text(token, "logprobs") if isinstance(token, str) else None
    if text is None:
        raise malformed("logprobs")
    if text.startswith("bytes:\\x"):
        try:
            return "\ufffd", bytes.fromhex(text[len("bytes:") :].replace("\\x", ""))
        except ValueError:
            raise malformed("logprobs") from None
    return text, text.encode()


def _checked(chosen: TokenLogprob, top: list[TokenLogprob]) -> Position:
    if math.fsum(math.exp(one.logprob) for one in top) > _MOST_MASS:
        raise malformed("logprobs of more than 1 together")
    return Position(chosen, tuple(sorted(top, key=lambda one: -one.logprob)))


def _logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise malformed("logprobs")
    if not math.isfinite(value) or not _LEAST_LOGPROB <= value <= _MOST_LOGPROB:
        raise malformed("logprobs")
    return min(0.0, float(value))


def _count(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if known and isinstance(value, int) else None
