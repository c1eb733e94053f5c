"""Government and bank identifiers: shape, check digit, and the words that must stand near.

`rules/identifiers.txt` has one line a numbering scheme.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tee_sim.guard import checksums
from tee_sim.guard.frames import near
from tee_sim.guard.rules import Rule, load, search

# Boundaries are ASCII, so that a number may touch Korean or Japanese particles
START = r"(?<![A-Za-z_\d])(?<!\d[.,-])"
STOP = r"(?![A-Za-z_\d])(?![.,-]\d)"
_SEPARATORS = re.compile(r"[ .\-+]")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Identifier:
    """One numbering scheme.

    Args:
        kind: entity kind.
        shape: finds the written value, with separators.
        valid: judges the value without separators, in capitals.
        context: words one of which must stand near; None where shape and check digit suffice.
        words: finds these words and longer ones that begin with them.
    """

    kind: str
    shape: Rule
    valid: Callable[[str], bool]
    context: re.Pattern[str] | None
    words: Rule | None


def _schemes() -> Iterator[Identifier]:
    for name, rules in load("identifiers").items():
        kind, _, check = name.partition(".")
        for rule in rules:
            shape = f"(?i){START}(?:{rule.source}){STOP}"
            words = "|".join(*rule.hints or [()])
            begun = rf"(?<![A-Za-z])(?:{words})"
            context = re.compile(f"{begun}(?![A-Za-z])", re.IGNORECASE) if words else None
            told = Rule((), f"(?i){begun}") if words else None
            yield Identifier(kind, Rule((), shape), getattr(checksums, check), context, told)


IDENTIFIERS = tuple(_schemes())


def find_identifiers(kind: str) -> Callable[[str], Iterator[tuple[int, int]]]:
    """Return the finder of all schemes of one kind."""
    rows = tuple(row for row in IDENTIFIERS if row.kind == kind)

    def find(text: str) -> Iterator[tuple[int, int]]:
        if len(_DIGIT.findall(text)) < 2:  # every scheme has more
            return
        for row in rows:
            if row.words is not None and not any(search([row.words], text)):
                continue
            for match in search([row.shape], text):
                value = _SEPARATORS.sub("", match.group()).upper()
                # No check digit is of another script; a view has such digits and letters plain
                judged = value.isascii() or row.valid is checksums.any_value
                if not (judged and _DIGIT.search(value) and row.valid(value)):
                    continue
                if row.context is None or near(row.context, text, *match.span()):
                    yield match.span()

    return find
