"""Tools in prompts, and calls in answers.

A model whose chat template takes `tools` is shown them its own way. Any other gets a system message
in the Hermes form, which Qwen, SmolLM2 and others were trained on: schemas between <tools> tags,
each call as a JSON object between <tool_call> tags, each result between <tool_response> tags.
"""

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from ptmo_secure.cloud.types import Message
from ptmo_secure.engine.grammar import Chain, Choice, JsonObject
from ptmo_secure.serve.routing import ToolCall

CALL_PREFIX = '<tool_call>\n{"name": "'  # with which an answer that has to be a call is begun
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_STARTS = (_OPEN, "{", "[{", "```json", "```\n{", "```\n[", "[TOOL_CALLS]")
_FENCE = re.compile(r"^```[a-z]*\n?|\n?```$")
_MAX_CALL_CHARS = 1 << 16
_MAX_CALLS = 128

_EXPLAINED = """You may call functions to help with the user's query. Their signatures:
<tools>
{schemas}
</tools>
For each call write a JSON object with its name and arguments between <tool_call> tags:
<tool_call>
{{"name": "function-name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def plain_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    """Return messages for a template that knows no tools: texts in roles that it knows."""
    told: list[dict[str, object]] = []
    results = False  # whether the last message holds results of calls
    for message in messages:
        role, content = str(message["role"]), str(message.get("content") or "")
        is_result = role == "tool"
        if is_result:
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if calls := message.get("tool_calls"):
            content = "\n".join([content, *_written(calls)]).strip("\n")
        if is_result and results:  # of calls side by side: some templates want turns to alternate
            told[-1]["content"] = f"{told[-1]['content']}\n{content}"
        else:
            told.append({"role": role, "content": content})
        results = is_result
    if tools:
        schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        system = _EXPLAINED.format(schemas=schemas)
        if told[0]["role"] == "system":
            told[0]["content"] = f"{told[0]['content']}\n\n{system}"
        else:
            told.insert(0, {"role": "system", "content": system})
    return told


def template_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Return messages for a template that knows tools: arguments are objects, not JSON texts."""
    told = []
    for message in messages:
        shown = {**message, "content": message.get("content") or ""}
        if calls := message.get("tool_calls"):
            shown["tool_calls"] = [
                {**call, "function": {"name": name, "arguments": arguments}}
                for call, (name, arguments) in zip(_objects(calls), _calls(calls), strict=True)
            ]
        told.append(shown)
    return told


def call_grammar(names: Sequence[str]) -> Chain:
    """Return what has to follow `CALL_PREFIX`: one of the names, and arguments."""
    return Chain([Choice([f'{name}", "arguments": '.encode() for name in names]), JsonObject()])


class CallParser:
    """Takes an answer piece by piece; tells calls from text.

    Calls stand between <tool_call> tags, or are the whole answer: a JSON object or list, fenced or
    not. What looks like a call and is none, or names no function there is, is text.

    Args:
        names: of the functions there are.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._began = False  # whether anything but blanks was given out

    def push(self, text: str) -> Iterator[str | ToolCall]:
        """Take a piece; yield what is certain."""
        self._held += text
        while self._held:
            if not self._began and _may_start_call(self._held.lstrip()):
                block, closed, rest = self._held.lstrip().partition(_CLOSE)
                if not (block.startswith(_OPEN) and closed):
                    return  # the whole answer may be a call: only its end tells
                self._held = rest
                yield from self._told(block + closed)
                continue
            at = self._held.find(_OPEN)
            if at > 0 or at < 0:
                keep = at if at > 0 else len(self._held) - _overlap(self._held, _OPEN)
                if keep:
                    given, self._held = self._held[:keep], self._held[keep:]
                    self._began = self._began or bool(given.strip())
                    yield given
                if at < 0:
                    return
            end = self._held.find(_CLOSE)
            if end < 0:
                return
            block, self._held = self._held[: end + len(_CLOSE)], self._held[end + len(_CLOSE) :]
            yield from self._told(block)

    def finish(self) -> Iterator[str | ToolCall]:
        """Yield what was held back, now that no more will come."""
        block, self._held = self._held, ""
        if block:
            yield from self._told(block)

    def _told(self, block: str) -> Iterator[str | ToolCall]:
        calls = parse_calls(block, self._names)
        if calls:
            yield from calls
        else:
            self._began = self._began or bool(block.strip())
            yield block


def parse_calls(block: str, names: Collection[str]) -> list[ToolCall]:
    """Return the calls that a block of an answer holds; none if it is anything else.

    Args:
        block: JSON objects or a list of them, in tags or a fence or bare; "parameters" passes for
            "arguments", and Python's quotes for JSON's.
        names: of the functions there are.
    """
    text = block.strip().removeprefix("[TOOL_CALLS]").removeprefix(_OPEN).removesuffix(_CLOSE)
    text = _FENCE.sub("", text.strip()).strip()
    if not text or len(text) > _MAX_CALL_CHARS:
        return []
    calls = []
    for value in _values(text):
        for each in value if isinstance(value, list) else [value]:
            call = _call(each, names)
            if call is None:
                return []
            calls.append(call)
    return calls if len(calls) <= _MAX_CALLS else []


def _values(text: str) -> list[object]:
    """Return the JSON values in a text, one after the other; none if anything else is there."""
    found: list[object] = []
    decoder = json.JSONDecoder()
    try:
        while text:
            value, end = decoder.raw_decode(text)
            found.append(value)
            text = text[end:].lstrip(" \n\r\t;,")
            if text.startswith((_OPEN, _CLOSE)):
                text = text.removeprefix(_CLOSE).lstrip().removeprefix(_OPEN).lstrip()
            if not text.strip("}]"):  # one bracket too many
                break
    except (ValueError, RecursionError):
        if found:
            return []
        try:
            return [ast.literal_eval(text)]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return []
    return found


def _call(value: object, names: Collection[str]) -> ToolCall | None:
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function")
    value = inner if isinstance(inner, Mapping) else value
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or name not in names or not isinstance(arguments, Mapping):
        return None
    try:
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        return None


def _may_start_call(text: str) -> bool:
    return any(text.startswith(start) or start.startswith(text) for start in _STARTS)


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    sizes = range(min(len(tag) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(tag[:size])), 0)


def _objects(calls: object) -> list[Mapping[str, object]]:
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def _calls(calls: object) -> Iterator[tuple[str, object]]:
    """Yield name and arguments of each call in a message; arguments that are no JSON as text."""
    for call in _objects(calls):
        function = call.get("function")
        function = function if isinstance(function, Mapping) else {}
        arguments: object = function.get("arguments", "{}")
        try:
            arguments = json.loads(str(arguments))
        except (ValueError, RecursionError):
            pass
        yield str(function.get("name", "")), arguments


def _written(calls: object) -> Iterator[str]:
    for name, arguments in _calls(calls):
        text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        yield f"{_OPEN}\n{text}\n{_CLOSE}"
