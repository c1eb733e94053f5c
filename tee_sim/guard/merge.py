"""From the finds of rules and model to the spans of a text.

Order: spans are widened to whole grapheme clusters; overlapping ones become one, which has the
kind of the most severe (of equals: the one that stands first in the table of recognisers, then
the rules' before the model's); parts of an address that only punctuation parts are joined; and
what was found once is found at every other mention.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from tee_sim.guard.names import is_name_word
from tee_sim.guard.normalise.view import whole_clusters
from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.guard.words import entries
from tee_sim.scan_result import Span

MAX_REPEATED_VALUES = 64
_MIN_REPEATED_CHARS = 4
_RANK = {row.kind: (-row.severity, place) for place, row in enumerate(RECOGNIZERS)}
_SEVERITY = {row.kind: row.severity for row in RECOGNIZERS}
_PLACES = frozenset({"ADDRESS", "LOCATION"})
_BETWEEN_PARTS = re.compile(r"[\s,;/()\u00b7-]{1,6}")
# Kinds whose values are words: a mention is a whole word, in any case
_WORDS = frozenset({"PERSON", "ORG", "LOCATION", "USERNAME", "EMAIL", "ADDRESS", "MEDICAL"})
_ONCE = frozenset({"AGE", "DATE", "DEMOGRAPHIC"})
_LOCAL_PART = re.compile(r"[A-Z]?[a-z]{3,24}|[A-Z]{3,24}")
_MAILBOXES = frozenset(entries("mailboxes"))


def merge(rule_spans: Iterable[Span], model_spans: Iterable[Span] = ()) -> tuple[Span, ...]:
    """Return ordered spans without overlaps that cover everything either side found.

    A span of the model never takes characters away from one of the rules, nor the other way
    round: leaving out what one of them saw would be a leak.

    Args:
        rule_spans: finds of the rules, of known kinds, in any order.
        model_spans: finds of a model, likewise.
    """
    joined: list[Span] = []
    for span in sorted([*rule_spans, *model_spans], key=lambda s: (s.start, -s.end)):
        if joined and span.start < joined[-1].end:
            joined[-1] = _union(joined[-1], span)
        else:
            joined.append(span)
    return tuple(joined)


def _union(a: Span, b: Span) -> Span:
    """Return the span over two, of the kind that ranks first."""
    first = min(a, b, key=lambda s: (-s.severity, _RANK[s.kind]))
    return Span(min(a.start, b.start), max(a.end, b.end), first.kind, first.severity)


def cover_clusters(text: str, spans: Iterable[Span]) -> list[Span]:
    """Return the spans, widened so that none cuts a grapheme cluster."""
    if text.isascii():
        return list(spans)
    return [Span(*whole_clusters(text, s.start, s.end), s.kind, s.severity) for s in spans]


def join_places(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Join parts of an address that only blanks and punctuation part; a street makes it one."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if (
            last is not None
            and {last.kind, span.kind} <= _PLACES
            and "ADDRESS" in (last.kind, span.kind)
            and _BETWEEN_PARTS.fullmatch(text, last.end, span.start)
        ):
            joined[-1] = _union(last, span)
        else:
            joined.append(span)
    return tuple(joined)


def mentions(text: str, spans: Iterable[Span]) -> list[Span]:
    """Find the other places where a found value stands, and parts of found names by themselves.

    Words are compared without case; a part of a name must have its capital, since "will" and
    "mark" are words. Names are also taken from the front of e-mail addresses.

    Args:
        text: the text.
        spans: what was found, at most `MAX_REPEATED_VALUES` different values; else nothing is done.
    """
    values = {
        text[span.start : span.end].rstrip("."): span for span in spans if span.kind not in _ONCE
    }
    if len(values) > MAX_REPEATED_VALUES:
        return []
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose small form is longer would shift all places
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    found: list[Span] = []
    parts: set[str] = set()
    for value, span in values.items():
        if span.kind in _WORDS:
            if len(value) >= 2:
                found += _whole_words(lowered, value.lower(), span.kind)
        elif len(value) >= _MIN_REPEATED_CHARS:
            found += _occurrences(text, value, span.kind)
        parts.update(_name_parts(value, span.kind))
    for part in sorted(parts):
        found += _whole_words(text, part, "PERSON")
    return found


def _name_parts(value: str, kind: str) -> list[str]:
    """Return the words of a name that may stand alone for it, with their capitals."""
    if kind == "PERSON":
        words = [word.strip(".,'\u2019-") for word in value.split()]
        words = words if len(words) > 1 else []
        return [w for w in words if len(w) > 1 and w[0].isupper() and is_name_word(w)]
    if kind == "EMAIL":
        words = _LOCAL_PART.findall(value.partition("@")[0])
        return [w.capitalize() for w in words if w.lower() not in _MAILBOXES and is_name_word(w)]
    return []


def _occurrences(text: str, value: str, kind: str) -> Iterator[Span]:
    """Yield where a value stands; not by a pattern, which the library would keep for later."""
    at = text.find(value)
    while at >= 0:
        yield Span(at, at + len(value), kind, _SEVERITY[kind])
        at = text.find(value, at + len(value))


def _whole_words(text: str, value: str, kind: str) -> list[Span]:
    return [
        span
        for span in _occurrences(text, value, kind)
        if not (span.start and _is_letter(text[span.start - 1]) and _is_letter(value[0]))
        and not (span.end < len(text) and _is_letter(text[span.end]) and _is_letter(value[-1]))
    ]


def _is_letter(char: str) -> bool:
    """Whether a character continues a word; Hangul does not, since particles follow directly."""
    return char.isalnum() and not "\uac00" <= char <= "\ud7a3"
