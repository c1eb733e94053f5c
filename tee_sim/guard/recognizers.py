"""The recognisers: one row of `words/recognizers.txt` per entity kind, its risk and what finds it.

Severity is the risk of one disclosed value; it enters the score by noisy-or. It follows three
questions: does the value open something (credentials), does it name one person (identifiers), or
does it only narrow the circle (quasi-identifiers)? A floor is the least score of a text that holds
such a value: kinds whose values are checked by digit or structure have one. Of two kinds that are
as severe the one that stands first counts.

Each row scans the whole text once. Patterns have bounded repetitions only, and look-behinds keep a
long run from being entered at every position, so the time is linear in the text.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from itertools import chain

from tee_sim.guard.identifiers import find_identifiers
from tee_sim.guard.words import entries

Ranges = Iterable[tuple[int, int]]
Finder = Callable[[str], Ranges]


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One row of the table.

    Args:
        kind: entity kind, one of `scan_result.ENTITY_KINDS`.
        severity: risk of one disclosed value, in [0, 1]; enters the score by noisy-or.
        floor: least score of a text that holds a value (near 1 for checksum-valid identifiers).
        find: yields the half-open ranges of validated values.
    """

    kind: str
    severity: float
    floor: float
    find: Finder


def _finder(kind: str, named: str) -> Finder:
    if named == "identifiers":
        return find_identifiers(kind)
    module, _, name = named.partition(".")
    finder: Finder = getattr(import_module(f"tee_sim.guard.{module}"), name)
    return finder


def _read(entry: str) -> Recognizer:
    kind, severity, floor, *named = entry.split()
    finders = [_finder(kind, name) for name in named]
    find = finders[0] if len(finders) == 1 else lambda text: chain(*(f(text) for f in finders))
    return Recognizer(kind, float(severity), float(floor), find)


RECOGNIZERS = tuple(map(_read, entries("recognizers")))
