"""From spans and situations to a score and a level.

Score: noisy-or of the severities of distinct values and of grave topics,
``1 - prod(1 - severity)``, raised to the highest floor: of a checked identifier, of the mild
situations together. It says what disclosure would cost, not how likely a level is.

Level: PUBLIC when nothing private is in the text. Else SEMI_SENSITIVE when a request is left
without it: one that stands by itself; or, if nothing in the text is weighty, one that stays the
same whatever the values are. Else PRIVATE. When in doubt PRIVATE: it keeps the whole text on the
device.
"""

from collections.abc import Iterable, Sequence

from tee_sim.guard.detect import complete, find_spans
from tee_sim.guard.merge import MAX_REPEATED_VALUES
from tee_sim.guard.normalise.views import views
from tee_sim.guard.reading import Classifier, model_spans
from tee_sim.guard.recognizers import RECOGNIZERS, Recognizer
from tee_sim.guard.requests import asks_alone, carries, mask, refers_back, sentences
from tee_sim.guard.rules import Piece
from tee_sim.guard.situations import Situation, find_situations
from tee_sim.guard.words import entries
from tee_sim.scan_result import TOPICS, Level, ScanResult, Span

_ROW = {row.kind: row for row in RECOGNIZERS}
# A task can carry these through unchanged: "write to NAME"; of all others a mask leaves too little
_LIGHT = frozenset(entries("light_kinds"))
_KEPT_CHARS = 8192
# Kinds that a situation repeats: one disclosure, counted once
_SAME = {"health": "MEDICAL", "sexuality": "DEMOGRAPHIC", "religion": "DEMOGRAPHIC"}


def scan_text(
    text: str, recognizers: Iterable[Recognizer] = RECOGNIZERS, classifier: Classifier | None = None
) -> ScanResult:
    """Find private spans and situations in a text and rate it.

    Security: pure function of the text; the result holds positions, kinds and topics only.

    Args:
        text: any string.
        recognizers: rows to apply.
        classifier: finds what no rule describes; None: the rules alone.

    Returns:
        Level, score in [0, 1], spans in code points, ordered and not overlapping, and why.
    """
    text = Piece(text)
    # Of a long text the readings are made twice rather than kept
    readings = list(views(text)) if len(text) <= _KEPT_CHARS else None
    by_rules = find_spans(text, recognizers, readings)
    seen = [] if classifier is None else model_spans(classifier, readings or views(text), by_rules)
    spans = with_sources(complete(text, by_rules, seen), by_rules, seen)
    masked = mask(text, [(span.start, span.end) for span in spans])
    places = sentences(masked)
    situations = find_situations(text, spans, places)
    points_back = refers_back(text)
    if not spans and not situations:
        return ScanResult("PUBLIC", 0.0, (), refers_back=points_back)
    # A full stop that a find took along makes no other value
    distinct = {text[span.start : span.end].lower().strip(" .,;:!?"): span for span in spans}
    few = len(distinct) <= MAX_REPEATED_VALUES
    score = score_of(_wholes(distinct) if few else distinct.values(), situations)
    level, reason = _judge(masked, places, spans, situations) if few else _TOO_MANY
    told = {situation.topic for situation in situations}
    topics = tuple(topic for topic in TOPICS if topic in told)
    return ScanResult(level, score, spans, topics, reason, points_back)


_TOO_MANY: tuple[Level, str] = ("PRIVATE", "too_many_values")


def _judge(
    masked: str,
    places: Sequence[tuple[int, int]],
    spans: Sequence[Span],
    situations: Sequence[Situation],
) -> tuple[Level, str]:
    """Return the level of a text with something private in it, and why."""
    grave = [situation for situation in situations if situation.grave]
    strict = bool(grave) or any(span.kind == "MEDICAL" for span in spans)
    hidden = _mask_more(masked, grave)
    if asks_alone(hidden, places, strict=strict):
        return "SEMI_SENSITIVE", "request_stands_alone"
    light = not grave and all(span.kind in _LIGHT for span in spans)
    if light and carries(masked, places):
        return "SEMI_SENSITIVE", "request_carries_values"
    return "PRIVATE", "nothing_left_to_ask"


def _mask_more(masked: str, situations: Iterable[Situation]) -> str:
    """Mask the words of situations, too; they may overlap each other and values."""
    joined: list[tuple[int, int]] = []
    for situation in sorted(situations, key=lambda s: s.start):
        start, end = situation.start, situation.end
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return mask(masked, joined)


def with_sources(
    spans: Iterable[Span], by_rules: Sequence[Span], by_model: Sequence[Span]
) -> tuple[Span, ...]:
    """Return the spans, those that only a model's finds touch as the model's."""
    if not by_model:
        return tuple(spans)

    def touched(span: Span, finds: Sequence[Span]) -> bool:
        return any(find.start < span.end and span.start < find.end for find in finds)

    return tuple(
        Span(span.start, span.end, span.kind, span.severity, "model")
        if touched(span, by_model) and not touched(span, by_rules)
        else span
        for span in spans
    )


def _wholes(values: dict[str, Span]) -> list[Span]:
    """Return the values that are not part of a longer one of their kind: "Ann" beside "Ann Lee"."""
    return [
        span
        for value, span in values.items()
        if not any(
            value != other and value in other and span.kind == values[other].kind
            for other in values
        )
    ]


def score_of(spans: Iterable[Span], situations: Iterable[Situation] = ()) -> float:
    """Combine severities: noisy-or over values and grave topics, raised to the highest floor.

    Mild situations have a noisy-or of their own, which is a floor, too: they repeat what the values
    beside them tell.
    """
    safe, floor = 1.0, 0.0
    kinds = set()
    for span in spans:
        kinds.add(span.kind)
        safe *= 1.0 - span.severity
        floor = max(floor, _ROW[span.kind].floor)
    topics = {s.topic: s for s in situations if _SAME.get(s.topic) not in kinds}
    mild = 1.0
    for situation in topics.values():
        if situation.grave:
            safe *= 1.0 - situation.severity
        else:
            mild *= 1.0 - situation.severity
    return max(1.0 - safe, 1.0 - mild, floor)
