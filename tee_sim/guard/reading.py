"""Has a text read by the classifier, and also what stands in it in disguise."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol
from unicodedata import category, normalize

from tee_sim.guard.normalise.view import View
from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.guard.rules import load
from tee_sim.guard.words import entries
from tee_sim.scan_result import Span

_SEVERITY = {row.kind: row.severity for row in RECOGNIZERS}
_REACH = 96  # characters around a disguise that the model reads with it
# A mere word is no secret unless it is told as one, which the rules see: it tells of a person
_SECRETS = frozenset({"SECRET", "API_KEY"})
_MAX_WORD = 64
# Of a Greek or Cyrillic word, a few letters look Latin: the rest tells that it is no disguise
_HALF_READ = re.compile("[a-z][\u0370-\u052f]|[\u0370-\u052f][a-z]", re.IGNORECASE)
# What is written in pieces: the model may give each of them another kind, or leave one out
_WRITTEN_IN_PIECES = frozenset(entries("kinds_in_pieces"))
_LEAST_SIGNS, _GAP = 4, 1  # letters and digits of the whole; characters between two pieces
_NEEDED = {
    "EMAIL": re.compile(r"(?i)\w\W{0,3}@\W{0,3}\w|\w\W{1,3}at\W{1,3}\w"),
    "COORDINATES": re.compile(r"\d[.,]\d{2}|\u00b0|\d\s?[NSEW]\b"),
}
_CODE = re.compile(load("stated_secrets")["not_literal"][0].source + "|^[A-Z_]+$")
_FUNCTION_WORDS = frozenset(entries("function_words"))
_MOST_UNVEILED = 32_768  # characters read a second time; the rules read all of them


@dataclass(frozen=True, slots=True)
class Entity:
    """A piece of text that the model takes for private.

    Args:
        start, end: half-open range in Unicode code points.
        kind: entity kind.
        probability: that of the most private of its tokens, 1 - P(O).
    """

    start: int
    end: int
    kind: str
    probability: float


class Classifier(Protocol):
    """`ner.TokenClassifier`, without its libraries."""

    def find(self, text: str, *, accompanied: bool = False) -> Iterable[Entity]: ...


def model_spans(
    classifier: Classifier, views: Iterable[View], known: Iterable[Span] = ()
) -> list[Span]:
    """Return what the classifier finds in the text and in its readings, in code points of the text.

    It reads the whole text, the readings that are new all over, and of the last one, which has
    all disguises off, what is around letters that were not there before, unless they are known.

    Security: function of the text alone; the time tells its length and its disguises.

    Args:
        classifier: finds entities.
        views: of the text; the first is the text as it stands.
        known: what was found already, in code points of the text.
    """
    found: set[tuple[int, int, str]] = set()
    ranges = [(span.start, span.end) for span in known]
    plain = last = None
    for view in views:
        if view.fresh is None:
            found.update(_read(classifier, view, 0, len(view.text), bool(ranges)))
            plain = plain or view
        last = view
    if plain is not None and last is not None and last.fresh is not None:
        left = _MOST_UNVEILED
        ranges += [(start, end) for start, end, _ in found]
        for low, high in _unveiled(plain.text, last, _covered(len(plain.text), ranges)):
            high = min(high, low + left)
            found.update(_read(classifier, last, low, high, bool(ranges)))
            left -= high - low
            if not left:
                break
    return [Span(start, end, kind, _SEVERITY[kind]) for start, end, kind in sorted(found)]


def _read(
    classifier: Classifier, view: View, low: int, high: int, accompanied: bool
) -> Iterator[tuple[int, int, str]]:
    text = view.text[low:high]
    for start, end, kind in _joined(text, classifier.find(text, accompanied=accompanied)):
        value = text[start:end].strip(" .,;:!?")
        if _is_one(value, kind):
            told = "DEMOGRAPHIC" if kind in _SECRETS and value.isalpha() else kind
            if kind in _SECRETS and text[end : end + 1] in ("", " ", "\n"):
                # The sentence's own signs stand behind it
                end = start + len(re.sub(r"(?:[.,]|\s[-\u2013\u2014]){1,3}\Z", "", text[start:end]))
            yield (*view.original(low + start, low + end), told)


def _joined(text: str, entities: Iterable[Entity]) -> Iterator[tuple[int, int, str]]:
    """Yield the finds, numbers that came in pieces as one, of the kind of the longest piece."""
    start = end = longest = 0
    kind = ""
    for entity in entities:
        size = entity.end - entity.start
        if {kind, entity.kind} <= _WRITTEN_IN_PIECES and 0 <= entity.start - end <= _GAP:
            kind, longest = (entity.kind, size) if size > longest else (kind, longest)
            end = entity.end
            continue
        if kind:
            yield start, end, kind
        start, end, kind, longest = entity.start, entity.end, entity.kind, size
    if kind:
        yield start, end, kind


def _is_one(value: str, kind: str) -> bool:
    """Whether a value can be of its kind at all: a comma is no phone number, "the" no name.

    Short words with a capital are left: An, He and My are names, too.
    """
    if value.lower() in _FUNCTION_WORDS and (value.islower() or len(value) > 2):
        return False
    signs = sum(map(str.isalnum, value))
    if kind in _WRITTEN_IN_PIECES:
        needed = _NEEDED.get(kind)
        return signs >= _LEAST_SIGNS and (needed is None or needed.search(value) is not None)
    return signs > 0 and not (kind in _SECRETS and _CODE.match(value))


def _covered(size: int, ranges: Iterable[tuple[int, int]]) -> bytearray:
    """Return a byte for each character: whether a range holds it."""
    covered = bytearray(size)
    for start, end in ranges:
        covered[start:end] = b"\1" * (end - start)
    return covered


def _unveiled(text: str, view: View, known: bytearray) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a view around letters that the text does not have in this place.

    Letters whose originals are all known say nothing new.
    """
    low = high = -1
    at = after = 0  # of the view; where the originals of the characters before end in the text
    size = len(view.text)
    while at < size:
        start, end = view.starts[at], view.ends[at]
        stop = at + 1
        while end - start > 1 and stop < size and view.starts[stop] == start:
            stop += 1
        old, new = text[start:end], view.text[at:stop]
        same = start <= after and (old == new or _as_read(old) == _as_read(new))
        here, after, at = at, end, stop
        if same or not any(map(str.isalpha, new)) or all(known[start:end]):
            continue
        if _HALF_READ.search(_word(view.text, here, stop)):
            continue
        if low >= 0 and here - high > 2 * _REACH:
            yield view.at_blanks(max(0, low - _REACH), high + _REACH)
            low = -1
        if low < 0:
            low = here
        high = stop
    if low >= 0:
        yield view.at_blanks(max(0, low - _REACH), min(size, high + _REACH))


def _word(text: str, start: int, end: int) -> str:
    """Return the word around a range."""
    first, last = max(0, start - _MAX_WORD), min(len(text), end + _MAX_WORD)
    while start > first and text[start - 1].isalpha():
        start -= 1
    while end < last and text[end].isalpha():
        end += 1
    return text[start:end]


def _as_read(text: str) -> str:
    """Return a text as the model reads it: it knows neither capitals nor accents."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in normalize("NFD", text.lower()) if category(c) != "Mn")
