"""From spans to a score and a level.

Score: noisy-or of the severities of distinct values, ``1 - prod(1 - severity)``, raised to the
highest floor among them. Level: PUBLIC without a span; with spans, SEMI_SENSITIVE when a part of
the text without any is a request that makes sense by itself, else PRIVATE. When in doubt PRIVATE:
it keeps the whole text on the device.
"""

import re
from collections.abc import Iterable

from tee_sim.guard.detect import complete, find_spans
from tee_sim.guard.merge import MAX_REPEATED_VALUES
from tee_sim.guard.recognizers import RECOGNIZERS, Recognizer
from tee_sim.scan_result import Level, ScanResult, Span

_MASK = "\ufffc"
_ROW = {row.kind: row for row in RECOGNIZERS}

_QUESTION = (
    r"what|how|why|when|where|who|whose|whom|which|is|are|was|were|do|does|did|can|could|would"
    r"|should|will|what['\u2019]s|how['\u2019]s|where['\u2019]s|who['\u2019]s"
)
_IMPERATIVE = (
    r"explain|write|tell|give|list|describe|summari[sz]e|translate|compare|show|recommend|suggest"
    r"|define|calculate|compute|create|draft|generate|implement|plan|teach|convert|solve|debug"
    r"|outline|discuss|help|find|name|make|prove|sort|rewrite|proofread"
)
_REQUEST = re.compile(
    rf"(?:(?:and|but|so|also|then|please|now|ok|okay|hi|hello|hey|thanks)[\s,]{{1,3}}){{0,3}}"
    rf"(?:{_QUESTION}|{_IMPERATIVE}|i\s(?:want|need|would\slike)\sto\sknow"
    rf"|i['\u2019]d\slike\sto\sknow)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\u3002\uff1f\uff01]{1,8}(?=\s|$|\ufffc)|[;\n]")
_CLAUSE_START = re.compile(
    rf"[,:\u2014\u2013]\s{{0,3}}(?=\S)|\s(?=(?:and|but|so|also"
    rf"|then)\s{{1,3}}(?:{_QUESTION}|{_IMPERATIVE})\b)",
    re.IGNORECASE,
)
# Words that point back at what was said before: "is it safe?" is about the masked value
_ANAPHORA = re.compile(
    r"\b(?:it|its|itself|this|these|those|them|they|their|theirs|he|him|his|she|her|hers|one|above"
    r"|same|mine)\b|\b(?:is|was|does|do|about|with|of|on|for"
    r"|like)\s{1,3}that\b|\bthat\b(?=\s{0,3}(?:[?.!,]|$|is\b|was\b|one\b|password"
    r"|number|code|key))",
    re.IGNORECASE,
)
_FILLER = re.compile(
    rf"\b(?:{_QUESTION}|{_IMPERATIVE}|me|you|i|please|a|an|the|to|of|and|ok|okay|right|there|now"
    r"|yes|no|so|then|also|my|us|know)\b",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"[^\W\d_]{2,}|\d+")


def scan_text(text: str, recognizers: Iterable[Recognizer] = RECOGNIZERS) -> ScanResult:
    """Find private spans in a text and rate it.

    Security: pure function of the text; the result holds positions and kinds only.

    Args:
        text: any string.
        recognizers: rows to apply.

    Returns:
        Level, score in [0, 1], and spans in code points, ordered and not overlapping.
    """
    spans = complete(text, find_spans(text, recognizers))
    if not spans:
        return ScanResult("PUBLIC", 0.0, ())
    distinct = {text[span.start : span.end].lower(): span for span in spans}
    few = len(distinct) <= MAX_REPEATED_VALUES
    level: Level = "PRIVATE"
    if few and has_public_remainder(text, spans):
        level = "SEMI_SENSITIVE"
    return ScanResult(level, score_of(_wholes(distinct) if few else distinct.values()), spans)


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


def score_of(spans: Iterable[Span]) -> float:
    """Combine severities: noisy-or, raised to the highest floor."""
    safe, floor = 1.0, 0.0
    for span in spans:
        safe *= 1.0 - span.severity
        floor = max(floor, _ROW[span.kind].floor)
    return max(1.0 - safe, floor)


def has_public_remainder(text: str, spans: Iterable[Span]) -> bool:
    """Whether some sentence or clause without a span is a request that stands by itself."""
    pieces, at = [], 0
    for span in spans:
        # An exclamation mark that closes a value may also close the sentence
        mark = "!" if text[span.end - 1] == "!" else _MASK
        pieces += [text[at : span.start], _MASK * (span.end - span.start - 1), mark]
        at = span.end
    masked = "".join([*pieces, text[at:]])
    at = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(masked)), len(masked)]:
        sentence = masked[at:end]
        at = end
        if _MASK not in sentence:
            if _stands_alone(sentence):
                return True
        elif any(_REQUEST.match(c.strip()) and _stands_alone(c) for c in _clauses(sentence)):
            return True
    return False


def _clauses(sentence: str) -> list[str]:
    clauses, at = [], 0
    for match in _CLAUSE_START.finditer(sentence):
        clauses.append(sentence[at : match.start()])
        at = match.end()
    return [*clauses, sentence[at:]]


def _stands_alone(segment: str) -> bool:
    """Whether a segment asks for something without pointing back at a masked part."""
    segment = segment.strip()
    if _MASK in segment or _ANAPHORA.search(segment):
        return False
    if not (segment.endswith(("?", "\uff1f")) or _REQUEST.match(segment)):
        return False
    return _CONTENT.search(_FILLER.sub(" ", segment)) is not None
