"""Runs the rules on every view of a text and returns what they find in the text itself."""

from collections.abc import Iterable

from tee_sim.guard.cards import find_card_lines
from tee_sim.guard.merge import cover_clusters, join_places, mentions, merge
from tee_sim.guard.names import find_neighbours, find_titles
from tee_sim.guard.normalise.view import View
from tee_sim.guard.normalise.views import views
from tee_sim.guard.recognizers import RECOGNIZERS, Recognizer
from tee_sim.guard.rules import Piece, Ranges
from tee_sim.guard.words import entries
from tee_sim.scan_result import Span

# Beside one of these a full name is a person's
_ANCHORS = frozenset(entries("anchors"))
# What patterns see by its capital letters
_SEEN_BY_CAPITALS = frozenset({"PERSON", "ORG", "ADDRESS", "LOCATION"})
_MAX_ANCHORS = 256
_REACH = 160  # beyond the longest frame of a rule
_SEVERITY = {row.kind: row.severity for row in RECOGNIZERS}


def find_spans(
    text: str,
    recognizers: Iterable[Recognizer] = RECOGNIZERS,
    readings: Iterable[View] | None = None,
) -> list[Span]:
    """Return every find of the rules, in code points of `text`, unordered and overlapping.

    Security: pure function of the text.

    Args:
        text: any string.
        recognizers: rows to apply to each view.
        readings: its views, where the caller has them.
    """
    rows = tuple(recognizers)
    about_names = tuple(row for row in rows if row.kind in _SEEN_BY_CAPITALS)
    found = {
        (*view.original(low + start, low + end), row.kind, row.severity)
        for view in (views(text) if readings is None else readings)
        for low, high in view.windows(_REACH)
        for piece in (view.text if high - low == len(view.text) else Piece(view.text[low:high]),)
        for row in (about_names if view.recased else rows)
        for start, end in row.find(piece)
    }
    return [Span(*find) for find in found]


def complete(
    text: str, rule_spans: Iterable[Span], model_spans: Iterable[Span] = ()
) -> tuple[Span, ...]:
    """Return the spans of a text: merged, joined, and with every further mention.

    Args:
        text: the text both were found in.
        rule_spans: of `find_spans`.
        model_spans: of a model, in the same coordinates.
    """
    spans = merge(cover_clusters(text, rule_spans), cover_clusters(text, model_spans))
    if not spans:
        return ()
    anchors = [(span.start, span.end) for span in spans if span.kind in _ANCHORS][:_MAX_ANCHORS]
    beside = _of_kind("PERSON", find_neighbours(text, anchors))
    spans = join_places(text, merge(spans, beside))
    spans = merge(cover_clusters(text, [*spans, *mentions(text, spans)]))
    names = [(span.start, span.end) for span in spans if span.kind == "PERSON"]
    spans = merge(spans, _of_kind("PERSON", find_titles(text, names)))
    lines = _of_kind("ORG", find_card_lines(text, spans, anchors))
    return merge(spans, cover_clusters(text, lines))


def _of_kind(kind: str, ranges: Ranges) -> list[Span]:
    return [Span(start, end, kind, _SEVERITY[kind]) for start, end in ranges]
