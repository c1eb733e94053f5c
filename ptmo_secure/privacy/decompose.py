"""Splits a query into segments, each with a level, so that public ones may go another way.

from ptmo_secure import QueryDecomposer

for segment in QueryDecomposer().decompose("My password is secret123. What is Python?"):
    print(segment.level.name, segment.text)
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ptmo_secure.config import choice
from ptmo_secure.errors import InputError
from ptmo_secure.privacy.sensitivity import Guard, SensitivityClassifier
from ptmo_secure.privacy.splitting import Range, clause_cuts, pieces, sentence_cuts
from ptmo_secure.types import Level, PrivateSpan, Sensitivity

Strategy = Literal["auto", "sentence", "clause", "entity"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
Joint = Literal["end", "sentence", "clause", "entity", "line", "paragraph"]

MAX_SEGMENTS = 256  # what follows stays together in the last one
_CLAUSE_WORDS = 3
_LEVELS = (Level.PUBLIC, Level.SEMI_SENSITIVE, Level.PRIVATE)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a query.

    Args:
        text: the part; blanks between parts are in `separator`.
        start, end: its place in the query, in code points.
        level: PUBLIC only if it may be answered apart from the rest, and tells nothing.
        score: risk in [0, 1].
        order: number in the query, from 0; answers are put together in this order.
        separator: what stands between it and the next one in the query.
        joint: how it is joined to the next one; an aggregator puts answers to clauses into one
            sentence, and to paragraphs into paragraphs.
        spans: its private values, at their places in the query.
        topics: situations it tells.
        refers_to: number of the earlier segment that a word of it ("her", "it") stands for, whose
            level it shares; None for none.
        entity: kind of the private value that it consists of (strategy "entity"); else None.
    """

    text: str
    start: int
    end: int
    level: Level
    score: float
    order: int
    separator: str
    joint: Joint
    spans: tuple[PrivateSpan, ...] = ()
    topics: tuple[str, ...] = ()
    refers_to: int | None = None
    entity: str | None = None


def rejoin(segments: Sequence[Segment]) -> str:
    """Return the query that segments were made of."""
    return "".join(segment.text + segment.separator for segment in segments)


class QueryDecomposer:
    """Splits queries; thread-safe; a context manager that ends the guard it started.

    Args:
        classifier: rates the query and its segments, and stays the caller's; None makes one.
        launch_guard: how that one starts its guard.

    Security: text reaches the guard process alone. A guard that fails makes the query one PRIVATE
    segment.
    """

    def __init__(
        self,
        classifier: SensitivityClassifier | None = None,
        *,
        launch_guard: Callable[[], Guard] | None = None,
    ) -> None:
        self._lent = classifier is not None
        self._classifier = classifier or SensitivityClassifier(launch_guard=launch_guard)

    def decompose(self, query: str, strategy: Strategy = "auto") -> list[Segment]:
        """Split a query into segments whose texts and separators make up the query.

        Every private value lies in one segment. A segment with one is not PUBLIC. If the query as
        a whole is PRIVATE, so are all segments: what would be left makes no sense without the rest,
        or is about it.

        Args:
            query: any string; an empty one has no segments.
            strategy: "sentence"; "clause", which also cuts within sentences; "entity", which cuts
                around private values; "auto": by sentence, and within a sentence by clause where
                that sets a public clause free; by entity where the whole is one request that
                carries values.

        Raises:
            InputError: `query` is no string, or the strategy is unknown.
        """
        if not isinstance(query, str):
            raise InputError(f"query is {type(query).__name__}, not a string")
        choice("strategy", strategy, STRATEGIES)
        whole = self._classifier.classify(query)
        return self.split(query, whole, strategy) if query else []

    def split(self, query: str, whole: Sensitivity, strategy: Strategy = "auto") -> list[Segment]:
        """As `decompose`, for a query that was rated already.

        Args:
            query: not empty.
            whole: the verdict on it.
            strategy: as for `decompose`.
        """
        if whole.error is not None:
            return _segments(query, [(0, len(query))], [whole], whole, None)
        uncut = [(span.start, span.end) for span in whole.spans]
        rate = functools.cache(self._classifier.classify)
        if strategy == "auto":
            ranges, strategy = _chosen(query, whole, uncut, rate)
        elif strategy == "entity":
            ranges = _around(query, uncut)
        else:
            cuts = sentence_cuts(query) if strategy == "sentence" else clause_cuts(query)
            ranges = pieces(query, cuts, uncut)
        ranges = _at_most(ranges)
        rated = [rate(query[start:end]) for start, end in ranges]
        return _segments(query, ranges, rated, whole, strategy)

    def close(self) -> None:
        """End the guard that this object started. Idempotent."""
        if not self._lent:
            self._classifier.close()

    def __enter__(self) -> "QueryDecomposer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chosen(
    query: str, whole: Sensitivity, uncut: Sequence[Range], rate: Callable[[str], Sensitivity]
) -> tuple[list[Range], Strategy]:
    """Return the ranges of strategy "auto", and the strategy that it came to."""
    sentences = pieces(query, sentence_cuts(query), uncut)
    if whole.reason != "request_stands_alone":
        if len(sentences) == 1 and whole.reason == "request_carries_values" and whole.spans:
            return _around(query, uncut), "entity"
        return sentences, "sentence"
    clauses = pieces(query, clause_cuts(query), uncut)
    if len(clauses) > MAX_SEGMENTS:
        return sentences, "sentence"
    finer: list[Range] = []
    for start, end in sentences:
        parts = [part for part in clauses if start <= part[0] and part[1] <= end]
        mixed = len(parts) > 1 and rate(query[start:end]).level is not Level.PUBLIC
        frees = mixed and any(_is_free(query[low:high], rate) for low, high in parts)
        finer += parts if frees else [(start, end)]
    return finer, "sentence" if finer == sentences else "clause"


def _is_free(clause: str, rate: Callable[[str], Sensitivity]) -> bool:
    """Whether a clause is worth a segment of its own."""
    found = rate(clause)
    long = len(clause.split()) >= _CLAUSE_WORDS
    return long and found.level is Level.PUBLIC and not found.refers_back


def _around(query: str, spans: Sequence[Range]) -> list[Range]:
    """Return the private values and what stands between them."""
    edges = sorted({0, len(query), *itertools.chain.from_iterable(spans)})
    return list(itertools.pairwise(edges))


def _at_most(ranges: list[Range]) -> list[Range]:
    if len(ranges) <= MAX_SEGMENTS:
        return ranges
    return [*ranges[: MAX_SEGMENTS - 1], (ranges[MAX_SEGMENTS - 1][0], ranges[-1][1])]


def _segments(
    query: str,
    ranges: Sequence[Range],
    rated: Sequence[Sensitivity],
    whole: Sensitivity,
    strategy: Strategy | None,
) -> list[Segment]:
    """Make segments of rated ranges: levels, spans, what refers to what, how they are joined."""
    told = {topic for found in rated for topic in found.topics}
    across = not set(whole.topics) <= told  # a situation that no segment tells by itself
    made: list[Segment] = []
    private: int | None = None  # the last segment before that is not PUBLIC
    for order, ((start, end), found) in enumerate(zip(ranges, rated, strict=True)):
        first = start if order else 0
        following = ranges[order + 1][0] if order + 1 < len(ranges) else len(query)
        separator = query[end:following]
        spans = tuple(span for span in whole.spans if start <= span.start and span.end <= end)
        level = _level(found, spans, start, whole, across=across)
        raised = whole.score if level is not found.level else 0.0
        segment = Segment(
            query[first:end],
            first,
            end,
            level,
            max(found.score, _risk(spans), raised),
            order,
            separator,
            _joint(separator, strategy, last=order + 1 == len(ranges)),
            spans,
            found.topics,
            entity=spans[0].kind if strategy == "entity" and _is_value(spans, start, end) else None,
        )
        if private is not None and found.refers_back:
            segment = _bound(segment, made[private])
        if segment.level is not Level.PUBLIC and segment.refers_to is None:
            private = order
        made.append(segment)
    return made


def _level(
    found: Sensitivity,
    spans: Sequence[PrivateSpan],
    start: int,
    whole: Sensitivity,
    *,
    across: bool,
) -> Level:
    own = {(start + span.start, start + span.end) for span in found.spans}
    unseen = any((span.start, span.end) not in own for span in spans)
    if whole.level is Level.PRIVATE or unseen:
        return Level.PRIVATE
    return _higher(found.level, Level.SEMI_SENSITIVE) if spans or across else found.level


def _bound(segment: Segment, target: Segment) -> Segment:
    """Return a segment that stands and falls with an earlier one."""
    return replace(
        segment,
        level=_higher(segment.level, target.level),
        score=max(segment.score, target.score),
        refers_to=target.order,
    )


def _higher(a: Level, b: Level) -> Level:
    return max(a, b, key=_LEVELS.index)


def _risk(spans: Sequence[PrivateSpan]) -> float:
    """Noisy-or of severities."""
    safe = 1.0
    for span in spans:
        safe *= 1.0 - span.severity
    return 1.0 - safe


def _is_value(spans: Sequence[PrivateSpan], start: int, end: int) -> bool:
    return len(spans) == 1 and (spans[0].start, spans[0].end) == (start, end)


def _joint(separator: str, strategy: Strategy | None, *, last: bool) -> Joint:
    if last:
        return "end"
    if separator.count("\n") > 1:
        return "paragraph"
    if "\n" in separator:
        return "line"
    return "entity" if strategy == "entity" else "clause" if strategy == "clause" else "sentence"
