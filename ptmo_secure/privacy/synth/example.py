"""One labelled text, and the pieces it is put together from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

CORE_KINDS = (
    *("PERSON", "ORG", "ADDRESS", "LOCATION", "DATE_OF_BIRTH", "AGE", "EMAIL", "PHONE", "URL"),
    *("USERNAME", "IP_ADDRESS", "MAC_ADDRESS", "PAYMENT_CARD", "IBAN", "BANK_ACCOUNT", "US_SSN"),
    *("NATIONAL_ID", "KR_RRN", "PASSPORT", "DRIVER_LICENSE", "TAX_ID", "SECRET", "API_KEY"),
    *("MEDICAL", "FINANCIAL", "COORDINATES"),
)
# Quasi-identifiers of a personal frame; a guard without such kinds may fold them, see `folded`
QUASI_KINDS = ("DATE", "NATIONALITY")
KINDS = CORE_KINDS + QUASI_KINDS
_NEAREST = {"DATE": "DATE_OF_BIRTH", "NATIONALITY": "LOCATION"}


class Label(NamedTuple):
    """A labelled range of a text, half-open, in code points."""

    start: int
    end: int
    kind: str


class Piece(NamedTuple):
    """A stretch of text that is one value of `kind`, or (None) none."""

    text: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its private spans.

    Args:
        text: what a user might type.
        spans: ordered, not overlapping.
        template: id of the template (of the first one, where several were joined).
        frame: "private" or "public" where a name stands in such a frame, else "".
        language: "en" or "ko".
    """

    text: str
    spans: tuple[Label, ...]
    template: str
    frame: str = ""
    language: str = "en"

    def values(self) -> list[tuple[str, str]]:
        """The spans as (kind, text)."""
        return [(span.kind, self.text[span.start : span.end]) for span in self.spans]

    def folded(self) -> "Example":
        """The same with the core kinds only: each quasi-identifier becomes its nearest kind."""
        spans = tuple(Label(s.start, s.end, _NEAREST.get(s.kind, s.kind)) for s in self.spans)
        return Example(self.text, spans, self.template, self.frame, self.language)


def join(pieces: Iterable[Piece]) -> tuple[str, tuple[Label, ...]]:
    """Put pieces together.

    A span has no white space at its ends: that of a piece stays outside.

    Returns:
        The text, and a span for each labelled piece that is not blank.
    """
    parts, spans, at = [], [], 0
    for text, kind in pieces:
        value = text.strip()
        if kind is not None and value:
            start = at + text.index(value)
            spans.append(Label(start, start + len(value), kind))
        parts.append(text)
        at += len(text)
    return "".join(parts), tuple(spans)
