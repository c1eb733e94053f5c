"""Government and bank identifiers: shape, check digit, and the words that must stand near.

`rules/identifiers.txt` has one line a numbering scheme.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tee_sim.guard import checksums
from tee_sim.guard.frames import near
from tee_sim.guard.rules import load

# Boundaries are ASCII, so that a number may touch Korean or Japanese particles
START = r"(?<![A-Za-z_\d])(?<!\d[.,-])"
STOP = r"(?![A-Za-z_\d])(?![.,-]\d)"
_SEPARATORS = re.compile(r"[ .\-+]")
_DIGIT = re.compile(r"\d")
_MIN_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Identifier:
    """One numbering scheme.

    Args:
        kind: entity kind.
        shape: pattern of the written value, with separators.
        valid: judges the value without separators, in capitals.
        context: words one of which must stand near; None where shape and check digit suffice.
    """

    kind: str
    shape: re.Pattern[str]
    valid: Callable[[str], bool]
    context: re.Pattern[str] | None


def _schemes() -> Iterator[Identifier]:
    for name, rules in load("identifiers").items():
        kind, _, check = name.partition(".")
        for rule in rules:
            shape = re.compile(f"{START}(?:{rule.pattern.pattern}){STOP}", re.IGNORECASE)
            words = "|".join(rule.hints)
            near_words = rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])"
            context = re.compile(near_words, re.IGNORECASE) if words else None
            yield Identifier(kind, shape, getattr(checksums, check), context)


IDENTIFIERS = tuple(_schemes())


def find_identifiers(kind: str) -> Callable[[str], Iterator[tuple[int, int]]]:
    """Return the finder of all schemes of one kind."""
    rows = tuple(row for row in IDENTIFIERS if row.kind == kind)

    def find(text: str) -> Iterator[tuple[int, int]]:
        if len(_DIGIT.findall(text)) < _MIN_DIGITS:
            return
        for row in rows:
            for match in row.shape.finditer(text):
                value = _SEPARATORS.sub("", match.group()).upper()
                if not _DIGIT.search(value) or not row.valid(value):
                    continue
                if row.context is None or near(row.context, text, *match.span()):
                    yield match.span()

    return find
