"""Names and texts in definitions of tools and in calls of them, read and written anew."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from ptmo_secure.cloud.body import BodyError, Text, texts_of
from ptmo_secure.hybrid.aliases import is_alias
from ptmo_secure.hybrid.telling import Message, Told, calls_of

_T = TypeVar("_T")
_SAID = frozenset({"description", "title", "$comment"})
_BESIDE = frozenset({"enum", "const", "default", "examples", "example", "pattern"})
_SCHEMAS = frozenset({"$defs", "definitions"})


class ToolWriter:
    """Writes definitions and calls with other names.

    Args:
        functions, arguments: aliases by name.
        unfit: texts that egress would refuse.
        cut: makes a text fit; None where it cannot.
    """

    def __init__(
        self,
        functions: Mapping[str, str],
        arguments: Mapping[str, str],
        unfit: set[str],
        cut: Callable[[str], str | None],
    ) -> None:
        self._functions, self._arguments, self._unfit = functions, arguments, unfit
        self._cut = cut
        # "bash" in a description is the word; "fetch_url" can only be the function
        compound = [re.escape(name) for name in functions if as_name(name).words is not None]
        longest_first = "|".join(sorted(compound, key=len, reverse=True))
        self._said = re.compile(rf"(?<![\w.-])(?:{longest_first})(?![\w-])") if compound else None

    def tool(self, tool: Message) -> Message:
        """Return a definition without what is unfit."""
        function = tool.get("function")
        if not isinstance(function, Mapping):
            return tool
        told = self._schema({name: said for name, said in function.items() if name != "name"})
        name = str(function.get("name", ""))
        return {**tool, "function": {"name": self._functions.get(name, name), **told}}

    def message(self, message: Message, *, heard: bool) -> Message:
        """Return a message with its calls renamed; what a cloud wrote has aliases already."""
        calls = message.get("tool_calls")
        if not isinstance(calls, (list, tuple)):
            return message
        functions, arguments = self._functions, self._arguments
        if heard:
            functions, arguments = _but_aliases(functions), _but_aliases(arguments)
        return {**message, "tool_calls": [renamed(one, functions, arguments) for one in calls]}

    def _schema(self, schema: Mapping[str, object]) -> dict[str, object]:
        told: dict[str, object] = {}
        for key, value in schema.items():
            if key in _BESIDE and self._unfit.intersection(_strings(value)):
                continue
            if key in _SAID and isinstance(value, str):
                text = self._text(value)
                told |= {} if text is None else {key: text}
            elif key == "properties" and isinstance(value, Mapping):
                names = self._arguments
                told[key] = {names.get(name, name): self._inner(one) for name, one in value.items()}
            elif key == "required" and isinstance(value, (list, tuple)):
                told[key] = [self._arguments.get(str(name), name) for name in value]
            elif key in _SCHEMAS and isinstance(value, Mapping):
                told[key] = {name: self._inner(one) for name, one in value.items()}
            else:
                told[key] = value if key in _BESIDE else self._inner(value)
        return told

    def _inner(self, value: object) -> object:
        if isinstance(value, Mapping):
            return self._schema(value)
        return [*map(self._inner, value)] if isinstance(value, (list, tuple)) else value

    def _text(self, text: str) -> str | None:
        named = [] if self._said is None else [*self._said.finditer(text)]
        if not named:
            return text if text not in self._unfit else self._cut(text)
        # Cut between the aliases: beside a name the guard may take one for a part of it
        told, at = list[str | None](), 0
        for name in named:
            told += [self._cut(text[at : name.start()]), self._functions[name[0]]]
            at = name.end()
        told.append(self._cut(text[at:]))
        return "".join(part or "" for part in told) if None not in told else None


def as_name(name: str) -> Text:
    """Return a name as egress reads it, by its words as well."""
    return Text("tools[0].function.name", name)


def names_of(
    tools: Iterable[Message], told: Iterable[Told]
) -> tuple[dict[str, None], dict[str, None]]:
    """Return the names of functions and of their arguments, each once, in order.

    Args:
        tools: no deeper than `texts_of` reads.
        told: messages with their calls; a cloud's own have aliases, which are nobody's names.
    """
    functions, arguments = dict[str, None](), dict[str, None]()
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping):
            functions[str(function.get("name", ""))] = None
            arguments |= dict.fromkeys(_properties(function.get("parameters")))
    for one in told:
        for name, said in [call for message in one.messages for call in calls_of(message)]:
            names, keys = dict.fromkeys([name]), dict.fromkeys(_keys(said))
            functions |= _but_aliases(names) if one.heard else names
            arguments |= _but_aliases(keys) if one.heard else keys
    return functions, arguments


def renamed(call: object, functions: Mapping[str, str], arguments: Mapping[str, str]) -> Message:
    """Return a call with other names; arguments that are no JSON stay as they are."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return {}
    name, said = str(function.get("name", "")), function.get("arguments")
    if arguments and isinstance(said, str):
        try:
            value = json.loads(
                said, object_pairs_hook=lambda some: {arguments.get(k, k): v for k, v in some}
            )
            said = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    told = {**function, "name": functions.get(name, name), "arguments": said}
    return {**call, "function": told}


def _but_aliases(names: Mapping[str, _T]) -> dict[str, _T]:
    return {name: other for name, other in names.items() if not is_alias(name)}


def _properties(schema: object) -> Iterator[str]:
    """Yield the names of all properties of a JSON schema."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            by_name = isinstance(value, Mapping) and (key == "properties" or key in _SCHEMAS)
            if by_name and key == "properties":
                yield from map(str, value)
            for inner in value.values() if by_name else (value,):
                yield from _properties(inner)
    elif isinstance(schema, (list, tuple)):
        for inner in schema:
            yield from _properties(inner)


def _keys(said: object) -> list[str]:
    """Return the keys in the arguments of a call that tell anything."""
    try:
        return [text.text for text in texts_of(str(said).encode()) if text.is_key]
    except (BodyError, ValueError):
        return []


def _strings(value: object) -> Iterator[str]:
    """Yield the strings of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)
