"""Has a text read by the classifier, and also what stands in it in disguise."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from tee_sim.guard.normalise.view import View
from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.scan_result import Span

_SEVERITY = {row.kind: row.severity for row in RECOGNIZERS}
_REACH = 96  # characters around a disguise that the model reads with it
# A mere word is no secret unless it is told as one, which the rules see: it tells of a person
_SECRETS = frozenset({"SECRET", "API_KEY"})
_MOST_UNVEILED = 32_768  # characters read a second time; the rules read all of them


class Entity(Protocol):
    """What the classifier found."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def kind(self) -> str: ...


class Classifier(Protocol):
    """`ner.TokenClassifier`, without its libraries."""

    def find(self, text: str) -> Iterable[Entity]: ...


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
    plain = last = None
    for view in views:
        if view.fresh is None:
            found.update(_read(classifier, view, 0, len(view.text)))
            plain = plain or view
        last = view
    if plain is not None and last is not None and last.fresh is not None:
        left = _MOST_UNVEILED
        ranges = [(span.start, span.end) for span in known]
        ranges += [(start, end) for start, end, _ in found]
        for low, high in _unveiled(plain.text, last, _covered(len(plain.text), ranges)):
            high = min(high, low + left)
            found.update(_read(classifier, last, low, high))
            left -= high - low
            if not left:
                break
    return [Span(start, end, kind, _SEVERITY[kind]) for start, end, kind in sorted(found)]


def _read(
    classifier: Classifier, view: View, low: int, high: int
) -> Iterator[tuple[int, int, str]]:
    text = view.text[low:high]
    for entity in classifier.find(text):
        kind = entity.kind
        if kind in _SECRETS and text[entity.start : entity.end].strip(" .,;:!?").isalpha():
            kind = "DEMOGRAPHIC"
        yield (*view.original(low + entity.start, low + entity.end), kind)


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
    after = 0  # where the originals of the character before end
    for at, char in enumerate(view.text):
        start, end = view.starts[at], view.ends[at]
        # Case alone is nothing to a model that does not know it
        same = end - start == 1 and text[start].lower() == char.lower() and start <= after
        after = end
        if same or not char.isalpha() or all(known[start:end]):
            continue
        if low >= 0 and at - high > 2 * _REACH:
            yield view.at_blanks(max(0, low - _REACH), high + _REACH)
            low = -1
        if low < 0:
            low = at
        high = at + 1
    if low >= 0:
        yield view.at_blanks(max(0, low - _REACH), min(len(view.text), high + _REACH))
