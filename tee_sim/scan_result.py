"""What a scan of a text returns, and its binary form in shared memory."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tee_sim.errors import Origin, ResultCode, TeeError

Level = Literal["PUBLIC", "SEMI_SENSITIVE", "PRIVATE"]
LEVELS: tuple[Level, ...] = get_args(Level)
Style = Literal["placeholder", "surrogate", "generalise"]
STYLES: tuple[Style, ...] = get_args(Style)

# Order is the wire code: append only.
ENTITY_KINDS = (
    *("SECRET", "PAYMENT_CARD", "US_SSN", "PHONE", "EMAIL", "PERSON", "ORG", "ADDRESS"),
    *("LOCATION", "DATE_OF_BIRTH", "AGE", "IBAN", "BANK_ACCOUNT", "NATIONAL_ID", "KR_RRN"),
    *("PASSPORT", "DRIVER_LICENSE", "TAX_ID", "IP_ADDRESS", "MAC_ADDRESS", "URL", "API_KEY"),
    *("PRIVATE_KEY", "JWT", "USERNAME", "COORDINATES", "MEDICAL", "FINANCIAL"),
    *("CRYPTO_ADDRESS", "VEHICLE", "ID_NUMBER", "DATE", "DEMOGRAPHIC"),
)

# What a text can tell about somebody without a span. Order is the wire code: append only.
TOPICS = (
    *("self_harm", "abuse", "health", "sexuality", "crime", "intimate", "secret", "dismissal"),
    *("religion", "politics", "work", "relationship", "family", "money", "study", "home"),
    *("travel", "civic", "online", "korean", "statement"),
)
# Why a text has its level. Order is the wire code: append only.
REASONS = (
    "nothing_private",
    "request_stands_alone",
    "request_carries_values",
    "nothing_left_to_ask",
    "too_many_values",
)
SOURCES = ("rule", "model")

_SPAN = struct.Struct("<IIHHd")
_VERDICT_REASON, _VERDICT_TOPICS = 8, 16  # bits of the flag and the reason below them
SPAN_BYTES = _SPAN.size


@dataclass(frozen=True, slots=True)
class Span:
    """One private piece of a text.

    Args:
        start, end: half-open range in Unicode code points.
        kind: entity kind, one of `ENTITY_KINDS`.
        severity: how much its disclosure costs, in [0, 1].
        source: what found it, one of `SOURCES`.
    """

    start: int
    end: int
    kind: str
    severity: float
    source: str = "rule"


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The sensitivity of a text.

    Security: holds positions and kinds, never the text itself.

    Args:
        level: PUBLIC (nothing private), SEMI_SENSITIVE (a request is left without what is
            private) or PRIVATE.
        score: risk of spans and topics in [0, 1].
        spans: ordered, not overlapping.
        topics: situations told without a span, some of `TOPICS`, in that order.
        reason: why the level, one of `REASONS`.
        refers_back: whether a word stands for something that was said before.
    """

    level: Level
    score: float
    spans: tuple[Span, ...]
    topics: tuple[str, ...] = ()
    reason: str = "nothing_private"
    refers_back: bool = False


def pack_score(score: float) -> int:
    """Encode a score as the bits of its float64."""
    bits: int = struct.unpack("<Q", struct.pack("<d", score))[0]
    return bits


def unpack_score(bits: int) -> float:
    """Decode what `pack_score` made."""
    score: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return score


def pack_verdict(result: ScanResult) -> int:
    """Encode reason, topics and backward reference of a result as one number."""
    topics = sum(1 << TOPICS.index(topic) for topic in result.topics)
    reason = REASONS.index(result.reason) << _VERDICT_REASON
    return topics << _VERDICT_TOPICS | reason | int(result.refers_back)


def unpack_verdict(word: int) -> tuple[tuple[str, ...], str, bool]:
    """Decode what `pack_verdict` made: topics, reason, whether a word refers back.

    Raises:
        IndexError, ValueError: an unknown reason or topic.
    """
    mask = word >> _VERDICT_TOPICS
    if mask >> len(TOPICS):
        raise ValueError("unknown topic")
    topics = tuple(topic for bit, topic in enumerate(TOPICS) if mask >> bit & 1)
    return topics, REASONS[word >> _VERDICT_REASON & 0xFF], bool(word & 0xFF)


def encode_text(text: str) -> bytes:
    """Encode a text as UTF-8 for the guard.

    Security: a lone surrogate is refused by an error that, unlike UnicodeEncodeError, does not
    hold the text.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise TeeError(
            ResultCode.BAD_FORMAT, Origin.API, "the text holds a lone surrogate"
        ) from None


def pack_spans(spans: Iterable[Span]) -> bytearray:
    """Encode spans as consecutive records of `SPAN_BYTES` bytes."""
    packed = bytearray()
    for span in spans:
        kind, source = ENTITY_KINDS.index(span.kind), SOURCES.index(span.source)
        packed += _SPAN.pack(span.start, span.end, kind, source, span.severity)
    return packed


def unpack_spans(data: bytes | bytearray | memoryview) -> tuple[Span, ...]:
    """Decode what `pack_spans` made.

    Raises:
        ValueError: on a cut record, an unknown kind or source.
    """
    if len(data) % SPAN_BYTES:
        raise ValueError(f"span records of {len(data)} bytes")
    spans = []
    for start, end, code, source, severity in _SPAN.iter_unpack(data):
        if code >= len(ENTITY_KINDS) or source >= len(SOURCES):
            raise ValueError(f"unknown entity code {code}, source {source}")
        spans.append(Span(start, end, ENTITY_KINDS[code], severity, SOURCES[source]))
    return tuple(spans)
