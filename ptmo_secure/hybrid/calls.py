"""Which of the calls in a cloud's answer are calls: those of functions that the request offered."""

import json
from collections.abc import Iterable, Mapping, Sequence

from ptmo_secure.hybrid.telling import nests_deep

Call = Mapping[str, object]


def parted(calls: Iterable[Call], tools: Sequence[Call]) -> tuple[tuple[Call, ...], str]:
    """Divide calls by what was offered.

    Args:
        calls: whole, as in the OpenAI API.
        tools: definitions of the request.

    Returns:
        The calls that name a function of the request and bring it a JSON object that does not nest
        deep; and the others as text, one a line, which runs nothing.
    """
    names = {_function(tool).get("name") for tool in tools}
    offered: list[Call] = []
    said: list[str] = []
    for call in calls:
        function = _function(call)
        if function.get("name") in names and _is_object(function.get("arguments")):
            offered.append(call)
        else:
            told = {name: function.get(name) for name in ("name", "arguments")}
            said.append(json.dumps(told, ensure_ascii=False))
    return tuple(offered), "\n".join(said)


def _function(owner: Call) -> Call:
    function = owner.get("function")
    return function if isinstance(function, Mapping) else {}


def _is_object(arguments: object) -> bool:
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else None
        if not isinstance(value, dict) or nests_deep(value):
            return False
        json.dumps(value, allow_nan=False)  # NaN and 1e999 are none that others could read
        return True
    except (ValueError, RecursionError):
        return False
