"""Patterns of the recognisers, as data: read when the guard starts, before its filter.

Format of a file, line by line; a line that begins with blanks continues the one before, joined
without them; # begins a comment line:

    NAME := pattern             a part, used below as {NAME}; {words:LIST} stands for a word list
    group :: pattern            one pattern of a group
    group [a|b] :: pattern      the same, tried only on texts that hold one of these pieces;
                                [a|b&c|d]: one of either

Every repetition in a pattern is bounded, so that its time is linear in the text.

A pattern is tried only where a match may begin. What its matches begin with, its leads, stands in
`leads.json` under the digest of the pattern, worked out by `python -m tests.guard.leads`: one to
three folded characters each, "^" for a capital or a character beyond ASCII. A pattern that is not
in there is tried everywhere, and compiled at once, so that a malformed one is refused. One that is
in there was compiled when that was written; here it is when a text first has a place for it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, chain, product
from pathlib import Path

from tee_sim.guard.words import alternatives

Ranges = Iterator[tuple[int, int]]

_LINE = re.compile(r"(?P<name>[\w.]+)(?: \[(?P<hints>.+?)\])? (?P<sign>::|:=) ?(?P<pattern>.+)")
_PART = re.compile(r"\{(?:words:(?P<words>\w+)|(?P<part>[A-Z][A-Z_]*))\}")

LEAD, CAPITAL = 3, "^"
# Letters and digits at the start of their run, signs, and blanks before a number or in front of all
_STARTS = re.compile(r"(?:[A-Za-z]+|[0-9]+|[^A-Za-z0-9])(?: (?![(0-9]))*")
_CAPITAL = re.compile(r"[A-Z\x80-\U0010ffff]")
_INDEXED_CHARS = 65_536  # of a longer text an index would take too much memory
_SAME = {"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"}
_ALL_LEADS = json.loads((Path(__file__).parent / "leads.json").read_text(encoding="utf-8"))
_SHORT = frozenset(lead for leads in _ALL_LEADS.values() for lead in leads if len(lead) < LEAD)


class _Folds(dict[int, str]):
    """Characters as leads have them: a digit is 0, a blank is one, letters have no case.

    Letters that a pattern without case takes for the same are the same.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        small = "0" if char.isdecimal() else " " if char.isspace() else char.lower()
        self[code] = _SAME.get(char, small)
        return self[code]


FOLDS = _Folds()


class Piece(str):
    """A text that knows where words begin in it, once it was asked."""

    @cached_property
    def lowered(self) -> str:
        """The text in small letters."""
        return self.lower()

    @cached_property
    def starts(self) -> dict[str, list[int]]:
        """Where a match may begin, by the one to three characters there, folded."""
        folded = self.translate(FOLDS)
        starts: dict[str, list[int]] = defaultdict(list)
        for at in accumulate(map(len, _STARTS.findall(self)), initial=0):
            starts[folded[at : at + LEAD]].append(at)
        for key, size in product([*starts], range(1, LEAD)):
            if size < len(key) and key[:size] in _SHORT:
                starts[key[:size]] += starts[key]
        starts[CAPITAL] += (match.start() for match in _CAPITAL.finditer(self))
        return starts


def as_piece(text: str) -> Piece:
    """Return a text as one that knows where its words begin."""
    return text if isinstance(text, Piece) else Piece(text)


@dataclass(frozen=True)
class Rule:
    """One pattern.

    Args:
        hints: groups of pieces in small letters; a text must hold one of each group.
        source: of the pattern, which finds values; its group "value" is the value, if it has one.

    Attributes:
        leads: what its matches begin with; none if that is unknown.
        pattern: the source, compiled when it is first asked for: a text needs few of hundreds.
    """

    hints: tuple[tuple[str, ...], ...]
    source: str
    leads = cached_property(lambda self: frozenset(_ALL_LEADS.get(digest(self.source), ())))
    pattern = cached_property(lambda self: re.compile(self.source))


def digest(source: str) -> str:
    """Return the name of a pattern in `leads.json`."""
    return blake2b(source.encode(), digest_size=8).hexdigest()


def load(name: str) -> dict[str, tuple[Rule, ...]]:
    """Return the groups of a file of patterns.

    Raises:
        OSError, ValueError, KeyError, re.error: a missing or malformed file; such a guard does not
            start.
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
        sets = match["hints"].replace(r"\n", "\n").split("&") if match["hints"] else ()
        rule = Rule(tuple(tuple(pieces.split("|")) for pieces in sets), pattern)
        if not rule.leads:
            re.compile(pattern)
        groups[match["name"]] = (*groups.get(match["name"], ()), rule)
    return groups


def patterns(groups: dict[str, tuple[Rule, ...]], names: str) -> tuple[re.Pattern[str], ...]:
    """Return the first pattern of each of some groups, named with blanks between."""
    return tuple(groups[name][0].pattern for name in names.split())


def search(rules: Iterable[Rule], text: str) -> "Iterator[re.Match[str]]":
    """Yield what `finditer` does, for each rule whose hints the text holds."""
    piece = as_piece(text)
    for rule in rules:
        if not all(any(map(piece.lowered.__contains__, pieces)) for pieces in rule.hints):
            continue
        if not rule.leads or len(piece) > _INDEXED_CHARS:
            yield from rule.pattern.finditer(piece)
            continue
        end, here = 0, rule.leads & piece.starts.keys()
        for at in sorted(chain.from_iterable(map(piece.starts.__getitem__, here))) if here else ():
            if at >= end and (match := rule.pattern.match(piece, at)):
                yield match
                end = match.end()


def value_of(match: "re.Match[str]") -> tuple[int, int]:
    """Return the range of a match's value."""
    return match.span("value" if "value" in match.re.groupindex else 0)


def find(rules: tuple[Rule, ...], text: str) -> Ranges:
    """Yield the ranges of all values that rules find."""
    return map(value_of, search(rules, text))
