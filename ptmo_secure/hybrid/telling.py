"""Messages of a conversation in the form in which a cloud may see them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ptmo_secure.cloud.body import MAX_DEPTH, Text
from ptmo_secure.privacy.risk import text_cost
from ptmo_secure.types import PrivateSpan
from tee_sim.client import Masked, ScanResult, Vault, names_in

Message = Mapping[str, object]
Limit = Literal["request", "masked", "public"]
"""What of a message may be told: a request that is not PRIVATE; what masks hide; PUBLIC alone."""

NOT_SHOWN = "(not shown)"  # in the place of a tool's result, without which its call is refused
_CUT = "..."
_OF_THE_WORLD = frozenset({"PERSON", "ORG", "LOCATION", "DATE"})
_MOST_KNOWN, _FIRST_MARK = 64, 0xE000  # of the private use area, which no text uses
_MARKS = re.compile("[\ue000-\ue03f]")
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Told:
    """A message as a cloud may see it.

    Args:
        messages: masked; none where it is withheld.
        cost: epsilon that telling it the first time costs.
        key: tells whether it was told before.
        whole: whether nothing of it stayed.
        heard: whether a cloud wrote it.
        familiar: texts of it that hold words which the cloud knows.
        refers_back: whether it speaks of something that was said before it.
    """

    messages: tuple[Message, ...]
    cost: float = 0.0
    key: bytes = b""
    whole: bool = False
    heard: bool = False
    familiar: tuple[str, ...] = ()
    refers_back: bool = False


NOTHING = Told(())


def text_of(message: Message) -> str:
    """Return all text of a message: its content, and what its tool calls say."""
    parts = [str(message.get("content") or "")]
    for _, said in calls_of(message):
        parts.append(said if isinstance(said, str) else json.dumps(said, default=str))
    return _BETWEEN.join(filter(None, parts))


def calls_of(message: Message) -> list[tuple[str, object]]:
    """Return name and arguments of each tool call of a message; what is no call, as arguments."""
    calls, told = message.get("tool_calls"), list[tuple[str, object]]()
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            told.append((str(function.get("name", "")), function.get("arguments")))
        else:
            told.append(("", call))
    return told


def in_strings(value: object, change: Callable[[str], str]) -> object:
    """Return a JSON value with each of its strings changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: in_strings(inner, change) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_strings(inner, change) for inner in value]
    return value


def nests_deep(value: object) -> bool:
    """Whether a JSON value nests deeper than egress reads, or than the functions here go down."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (Mapping, list, tuple))
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    return bool(level)


def mask_message(
    vault: Vault, text: str, costs: list[float], limit: Limit, known: Sequence[str] = ()
) -> str | None:
    """Return a text masked; None where masks do not make it fit to go.

    Args:
        vault: of the session.
        text: of a message.
        costs: gets the epsilon that telling it costs.
        limit: what may be told.
        known: values in it that the cloud knows: they stay there, and out of the vault.

    Raises:
        TeeError: the guard failed; nothing may go.
    """
    if not text:
        return None
    masked = vault.mask(_hidden(text, known))
    if masked.topics or (limit == "request" and masked.level == "PRIVATE"):
        return None
    if limit == "public" and masked.level != "PUBLIC":
        return None
    if not _is_fit(vault, masked.text):
        return None
    costs.append(cost_of(masked))
    return _shown(masked.text, known)


def known_values(found: ScanResult, text: str, spoken: str) -> tuple[str, ...]:
    """Return what is private in a text by the guard, and was told the cloud already.

    Args:
        found: the guard's verdict on the text.
        text: of a tool's call or result.
        spoken: what the cloud was told in this conversation, or wrote itself.

    Returns:
        Names and dates alone, longest first; none where the text has characters of marks, or what
        looks like a placeholder: a mask has to see that whole.
    """
    if _MARKS.search(text) or names_in(text):
        return ()
    values = {
        text[s.start : s.end]
        for s in found.spans
        if is_known(s.kind, text[s.start : s.end], spoken)
    }
    return tuple(sorted(values, key=len, reverse=True)[:_MOST_KNOWN])


def is_known(kind: str, value: str, spoken: str) -> bool:
    """Whether a value is a name or a date that was told already; as `known_values`."""
    if kind not in _OF_THE_WORLD or not value.strip():
        return False
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", spoken, re.IGNORECASE) is not None


def _hidden(text: str, known: Sequence[str]) -> str:
    for number, value in enumerate(known):
        text = text.replace(value, chr(_FIRST_MARK + number))
    return text


def _shown(text: str, known: Sequence[str]) -> str:
    return _MARKS.sub(lambda mark: known[ord(mark[0]) - _FIRST_MARK], text) if known else text


def cut_message(
    vault: Vault, text: str, scan: Callable[[str], ScanResult], costs: list[float]
) -> str | None:
    """Return a text without its private values; None where that does not make it fit to go.

    An answer holds names of the world, which its user has to be able to write afterwards: in the
    vault they would be refused from then on.

    Args:
        vault: whose values and placeholders must not stand in it.
        text: of an answer.
        scan: finds what is private in it.
        costs: gets the epsilon that telling it costs.

    Raises:
        TeeError: the guard failed; nothing may go.
    """
    found = scan(text)
    if found.topics:
        return None
    parts, at = list[str](), 0
    for span in found.spans:
        parts += [text[at : span.start], _CUT]
        at = span.end
    rest = "".join([*parts, text[at:]])
    if not _is_fit(vault, rest) or ("[" in rest and vault.unmask(rest) != rest):
        return None
    costs.append(text_cost((), ()))
    return rest


def _is_fit(vault: Vault, text: str) -> bool:
    checked = vault.check(text)
    return checked.held is None and checked.private is None


def cost_of(masked: Masked) -> float:
    """Return the epsilon that a masked text costs."""
    spans = (PrivateSpan(s.start, s.end, s.kind, s.severity, s.source) for s in masked.spans)
    return text_cost(spans, masked.topics)


def masked_call(
    vault: Vault,
    call: object,
    costs: list[float],
    limit: Limit,
    known: Callable[[str], Sequence[str]],
) -> Message | None:
    """Return a tool call, but its name, with its arguments masked; None where it is not fit to go.

    Args: as `mask_message`; `known` for each text.

    Raises:
        TeeError: the guard failed; nothing may go.
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    said = function.get("arguments")
    try:
        value = json.loads(said) if isinstance(said, str) else said
    except (ValueError, RecursionError):
        return None
    if nests_deep(value):
        return None
    refused: list[str] = []

    def change(text: str) -> str:
        masked = mask_message(vault, text, costs, limit, known(text))
        if masked is None and text:
            refused.append("")
        return masked or ""

    arguments = json.dumps(in_strings(value, change), ensure_ascii=False)
    if refused or not _keys_fit(vault, value):
        return None
    return {
        "id": str(call.get("id", "")),
        "type": "function",
        "function": {"arguments": arguments},
    }


def _keys_fit(vault: Vault, value: object) -> bool:
    """Whether keys and numbers of arguments may go; a key that may not goes by another name."""
    rest = json.dumps(in_strings(value, lambda _: ""), ensure_ascii=False)
    if _is_fit(vault, rest):
        return True

    def known(key: str) -> str:
        words = Text("", key, is_key=True).words or ""
        return key if _is_fit(vault, f"{key}\n{words}") else "a"

    other = json.loads(rest, object_pairs_hook=lambda some: {known(k): v for k, v in some})
    return _is_fit(vault, json.dumps(other, ensure_ascii=False))


def fitting(vault: Vault, told: Sequence[Told]) -> tuple[Told, ...]:
    """Return of a conversation what still makes one.

    Values that came to the vault after a message was told are in none of it: with a message of the
    user's all goes that answers it. No call stands without its results, and no result alone.
    """

    def holds(some: Sequence[Told]) -> bool:
        said = "\n".join(text_of(message) for one in some for message in one.messages)
        return vault.check(said, scan=False).held is not None

    kept = list(told)
    if kept and holds(kept):
        kept, silent = [], False
        for one in told:
            user, held = one.messages[0].get("role") == "user", holds([one])
            silent = held if user else silent
            kept += [] if held or (silent and _answers(one)) else [one]
    return _paired(kept)


def _answers(one: Told) -> bool:
    return one.messages[0].get("role") in ("assistant", "tool")


def _paired(told: Sequence[Told]) -> tuple[Told, ...]:
    answered = {_result_of(one) for one in told}
    kept = [one for one in told if all(ident in answered for ident in _call_ids(one))]
    called = {ident for one in kept for ident in _call_ids(one)}
    return tuple(one for one in kept if _result_of(one) is None or _result_of(one) in called)


def _result_of(one: Told) -> object:
    """Return the id of the call that a message is the result of; None for other messages."""
    message = one.messages[0]
    return message.get("tool_call_id", "") if message.get("role") == "tool" else None


def _call_ids(one: Told) -> list[object]:
    calls = one.messages[0].get("tool_calls")
    return [call["id"] for call in calls] if isinstance(calls, list) else []
