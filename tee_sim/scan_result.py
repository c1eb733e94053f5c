"""What a scan of a text returns, and its binary form in shared memory."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tee_sim.errors import Origin, ResultCode, TeeError

Level = Literal["PUBLIC", "SEMI_SENSITIVE", "PRIVATE"]
LEVELS: tuple[Level, ...] = get_args(Level)

# Order is the wire code: append only.
ENTITY_KINDS = (
    *("SECRET", "PAYMENT_CARD", "US_SSN", "PHONE", "EMAIL", "PERSON", "ORG", "ADDRESS"),
    *("LOCATION", "DATE_OF_BIRTH", "AGE", "IBAN", "BANK_ACCOUNT", "NATIONAL_ID", "KR_RRN"),
    *("PASSPORT", "DRIVER_LICENSE", "TAX_ID", "IP_ADDRESS", "MAC_ADDRESS", "URL", "API_KEY"),
    *("PRIVATE_KEY", "JWT", "USERNAME", "COORDINATES", "MEDICAL", "FINANCIAL"),
    *("CRYPTO_ADDRESS", "VEHICLE", "ID_NUMBER", "DATE", "DEMOGRAPHIC", "JOB_TITLE"),
)

_SPAN = struct.Struct("<IIId")
SPAN_BYTES = _SPAN.size


@dataclass(frozen=True, slots=True)
class Span:
    """One private piece of a text.

    Args:
        start, end: half-open range in Unicode code points.
        kind: entity kind, one of `ENTITY_KINDS`.
        severity: how much its disclosure costs, in [0, 1].
    """

    start: int
    end: int
    kind: str
    severity: float


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The sensitivity of a text.

    Security: holds positions and kinds, never the text itself.

    Args:
        level: PUBLIC (no span), SEMI_SENSITIVE (a public remainder is left to ask) or PRIVATE.
        score: risk of the spans in [0, 1].
        spans: ordered, not overlapping.
    """

    level: Level
    score: float
    spans: tuple[Span, ...]


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
        packed += _SPAN.pack(span.start, span.end, ENTITY_KINDS.index(span.kind), span.severity)
    return packed


def unpack_spans(data: bytes | bytearray | memoryview) -> tuple[Span, ...]:
    """Decode what `pack_spans` made.

    Raises:
        ValueError: on a cut record or an unknown kind.
    """
    if len(data) % SPAN_BYTES:
        raise ValueError(f"span records of {len(data)} bytes")
    spans = []
    for start, end, code, severity in _SPAN.iter_unpack(data):
        if code >= len(ENTITY_KINDS):
            raise ValueError(f"unknown entity code {code}")
        spans.append(Span(start, end, ENTITY_KINDS[code], severity))
    return tuple(spans)
