"""Names of persons and employers by what stands around them; a name alone is left to the model.

The same name is private in "my neighbour Ann Lee" and public in "who wrote ...": the frame decides.
"""

import re
from collections.abc import Iterable

from tee_sim.guard.frames import personal
from tee_sim.guard.rules import Ranges, Rule, load, patterns, search, value_of
from tee_sim.guard.words import entries

_RULES = load("names")
_NO_NAMES = frozenset(entries("no_names"))
_AFTER_NAMES = frozenset(entries("after_names"))
_LINKS = frozenset("van von der den de del della di da dos la le el al bin ibn ben ter y e".split())
_CONTACTED, _NEIGHBOUR, _GAP, _TITLE = patterns(_RULES, "contacted neighbour gap title")
_REACH, _NEAR_CHARS, _TITLE_CHARS = 60, 48, 12


def find_names(text: str) -> Ranges:
    """Yield names of persons that a text presents as somebody it knows."""
    for match in search(_RULES["stated"], text):
        span = _stated_name(match)
        if span is not None:
            yield span
    yield from _cut(_RULES["framed"], text)
    for match in search(_RULES["titled"], text):
        low, high = max(0, match.start() - _REACH), match.end() + _REACH
        span = without_other_words(text, *value_of(match))
        if span is not None and (
            personal(text, *match.span()) or _CONTACTED.search(text, low, high)
        ):
            yield span


def _cut(rules: tuple[Rule, ...], text: str) -> Ranges:
    found = (without_other_words(text, *value_of(match)) for match in search(rules, text))
    return (span for span in found if span is not None)


def without_other_words(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Cut a run of capitalised words where one is no name; None if that is the first."""
    kept = start
    for match in re.finditer(r"\S+", text[start:end]):
        if match.group().strip(".,").lower() in _NO_NAMES:
            if text[start:kept].isupper() and " " not in text[start:kept]:
                return None  # "Dear ACL Reviewer"
            break
        kept = start + match.end()
    name = text[start:kept].rstrip()
    return (start, start + len(name)) if len(name) > 1 else None


def is_name_word(word: str) -> bool:
    """Whether a capitalised word can be a part of a name rather than a common word."""
    return word.lower() not in _NO_NAMES and word.lower() not in _AFTER_NAMES


def _stated_name(match: "re.Match[str]") -> tuple[int, int] | None:
    """Return the name after "my name is": up to three words, cut at the first that is none."""
    start, _ = value_of(match)
    value = match["value"]
    capital = value[0].isupper()
    kept = 0
    for word in re.finditer(r"\S+", value):
        plain = word.group().strip(".,'\u2019")
        common = plain.lower() in _NO_NAMES or plain in _AFTER_NAMES
        small = kept and capital and plain.islower() and plain not in _LINKS
        if common or small or "\n\n" in value[kept : word.start()]:
            break
        kept = word.end()
    return (start, start + kept) if any(c.isalpha() for c in value[:kept]) else None


def find_employers(text: str) -> Ranges:
    """Yield organisations that a text calls somebody's employer, school or company."""
    return _cut(_RULES["employer"], text)


def find_neighbours(text: str, anchors: "list[tuple[int, int]]") -> Ranges:
    """Yield full names beside an identifier: "Ann Lee, 536-22-1234", signatures, address blocks.

    Args:
        text: any string.
        anchors: ordered ranges of identifiers, at most a few hundred.
    """
    for start, _ in anchors:
        for match in _NEIGHBOUR.finditer(text, max(0, start - _NEAR_CHARS), start):
            if not _GAP.fullmatch(text, match.end(), start):
                continue
            span = without_other_words(text, *match.span())
            if span is not None and " " in text[span[0] : span[1]]:
                yield span


def find_titles(text: str, names: Iterable[tuple[int, int]]) -> Ranges:
    """Yield names with the title before them, which tells of sex, trade or rank."""
    for start, end in names:
        if match := _TITLE.search(text, max(0, start - _TITLE_CHARS), start):
            yield match.start(), end
