"""Patterns of the recognisers, as data: read when the guard starts, before its filter.

Format of a file, line by line; a line that begins with blanks continues the one before, joined
without them; # begins a comment line:

    NAME := pattern             a part, used below as {NAME}; {words:LIST} stands for a word list
    group :: pattern            one pattern of a group
    group [a|b] :: pattern      the same, tried only on texts that hold one of these pieces

Every repetition in a pattern is bounded, so that its time is linear in the text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tee_sim.guard.words import alternatives

Ranges = Iterator[tuple[int, int]]

_LINE = re.compile(r"(?P<name>[\w.]+)(?: \[(?P<hints>.+?)\])? (?P<sign>::|:=) ?(?P<pattern>.+)")
_PART = re.compile(r"\{(?:words:(?P<words>\w+)|(?P<part>[A-Z][A-Z_]*))\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern.

    Args:
        hints: pieces in small letters, one of which a text must hold; none for any text.
        pattern: finds values; its group "value" is the value, if it has one.
    """

    hints: tuple[str, ...]
    pattern: re.Pattern[str]


def load(name: str) -> dict[str, tuple[Rule, ...]]:
    """Return the groups of a file of patterns.

    Raises:
        OSError, ValueError, KeyError: a missing or malformed file; such a guard does not start.
    """
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    parts: dict[str, str] = {}
    groups: dict[str, tuple[Rule, ...]] = {}

    def insert(match: "re.Match[str]") -> str:
        return alternatives(match["words"]) if match["words"] else parts[match["part"]]

    for line in re.sub(r"\n[ \t]+", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"rules {name}: malformed line")
        pattern = _PART.sub(insert, match["pattern"])
        if match["sign"] == ":=":
            parts[match["name"]] = pattern
            continue
        hints = (
            tuple((match["hints"] or "").replace(r"\n", "\n").split("|")) if match["hints"] else ()
        )
        rule = Rule(hints, re.compile(pattern))
        groups[match["name"]] = (*groups.get(match["name"], ()), rule)
    return groups


def patterns(groups: dict[str, tuple[Rule, ...]], names: str) -> tuple[re.Pattern[str], ...]:
    """Return the first pattern of each of some groups, named with blanks between."""
    return tuple(groups[name][0].pattern for name in names.split())


def search(rules: Iterable[Rule], text: str) -> "Iterator[re.Match[str]]":
    """Yield the matches of each rule whose hints the text holds."""
    lowered = text.lower()
    for rule in rules:
        if not rule.hints or any(hint in lowered for hint in rule.hints):
            yield from rule.pattern.finditer(text)


def value_of(match: "re.Match[str]") -> tuple[int, int]:
    """Return the range of a match's value."""
    return match.span("value" if "value" in match.re.groupindex else 0)


def find(rules: tuple[Rule, ...], text: str) -> Ranges:
    """Yield the ranges of all values that rules find."""
    return map(value_of, search(rules, text))
