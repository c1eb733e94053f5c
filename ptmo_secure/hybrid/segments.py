"""Which parts of a query go, which stay, and whether what stays asks for anything."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ptmo_secure.offload.actions import Piece
from ptmo_secure.privacy.decompose import Segment
from ptmo_secure.privacy.manager import OffloadingDecision
from ptmo_secure.types import Level, Route

_CHARS_PER_TOKEN = 4  # rough; lengths for the policy alone
_QUESTION = re.compile(r"[?\uff1f\u061f\u037e]")
_REQUEST = re.compile(
    r"(?:^|[.!;:,\n]\s*|\b(?:and|then|please|also)\s+)(?:please\s+)?(?:what|how|why|when|where|who|whose"
    r"|which|is|are|was|were|do|does|did|can|could|would|should|will|explain|write|tell|give|list"
    r"|describe|summari[sz]e|translate|compare|show|recommend|suggest|define|calculate|create|draft"
    r"|generate|plan|teach|help|find|make|remind|remember|answer|reply|fix|check|convert|rewrite)\b"
    r"|(?:\ud574\s?\uc918|\uc8fc\uc138\uc694|\uc54c\ub824|\uc778\uac00\uc694|\ud560\uae4c)",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:my|mine|me|myself|i|i'm|i've|we|our|ours|us)\b|\ub0b4\s|\uc81c\s|\ub098\uc758|\uc6b0\ub9ac",
    re.IGNORECASE,
)
_OF_OWN = re.compile(
    r"\b(?:my|mine|our|ours|(?:who|what|how\s+\w+)\s+am\s+i|(?:am|did|was|have)\s+i"
    r"|(?:about|call|know|describe)\s+me)\b|\ub0b4\s|\uc81c\s|\ub098\uc758|\uc6b0\ub9ac",
    re.IGNORECASE,
)
_ALONE = frozenset(  # of these alone a message says nothing without what was said before it
    (
        "a an and again also another are as because but can come could detail details did do does"
        " elaborate else example examples explain expand far few for further give go how i in is it"
        " its keep long longer many me mean meaning means more much no not of often oh ok okay on"
        " one or other please proceed continue really right say should shorter show simpler so some"
        " soon still such sum summarise summarize sure tell thank thanks that the them then there"
        " these they this those to too try up us very was we were what when where which who whom"
        " whose why with words would yes you your"
        " \uc65c \uc65c\uc694 \uc5b4\ub5bb\uac8c \ub354"
        " \uc790\uc138\ud788 \uacc4\uc18d \uadf8\ub798\uc11c"
    ).split()
)
_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Division:
    """A query divided between the device and a cloud.

    Args:
        going: what would go, unmasked as yet; "" for nothing.
        staying: what the device has to answer; "" where nothing that stays asks for anything.
        first: whose part comes first in the query.
        stays: number of segments that stay.
    """

    going: str
    staying: str
    first: Literal["cloud", "local"]
    stays: int


def divide(proposed: OffloadingDecision, query: str, kept: Collection[int] = ()) -> Division:
    """Divide a query as a proposal says.

    Args:
        proposed: by `PrivacyManager.propose`.
        query: the user's text.
        kept: numbers of segments that the user keeps on the device as well.
    """
    if proposed.decision is Route.CLOUD:
        return Division("", query, "local", 1) if kept else Division(query, "", "cloud", 0)
    leaving = leaving_of(proposed, kept)
    if proposed.decision is Route.LOCAL:
        return Division("", query, "local", len(proposed.segments) or 1)
    if not leaving:
        return Division("", query, "local", len(proposed.segments))
    left = [segment for segment in proposed.segments if segment.order not in leaving]
    staying = joined(proposed.segments, [segment.order for segment in left])
    first: Literal["cloud", "local"] = "local" if left and left[0].order == 0 else "cloud"
    return Division(
        joined(proposed.segments, leaving), staying if asks(staying) else "", first, len(left)
    )


def leaving_of(proposed: OffloadingDecision, kept: Collection[int] = ()) -> set[int]:
    """Return the numbers of the segments that go: none that asks about what stays of its writer.

    Args: as `divide`; a number in `kept` that no segment has keeps all.
    """
    segments, leaving = proposed.segments, {*proposed.sent, *proposed.masked} - set(kept)
    entities = any(segment.entity for segment in segments)
    unknown = set(kept) - {segment.order for segment in segments}
    if proposed.decision is Route.LOCAL or unknown or (entities and kept):
        return set()  # around values, the parts make sense together alone
    told = any(speaks_of_own(one.text) for one in segments if one.order not in leaving)
    if not told:
        return leaving
    return {order for order in leaving if not asks_of_own(segments[order].text)}


def joined(segments: Sequence[Segment], orders: Collection[int]) -> str:
    """Return some segments as one text; neighbours keep what stands between them."""
    parts: list[str] = []
    for segment in segments:
        if segment.order in orders:
            following = segment.order + 1 in orders
            gap = segment.separator if following or not segment.separator.strip(" ") else " "
            parts.append(segment.text + (gap or ("" if following else " ")))
    return "".join(parts).strip()


def asks(text: str) -> bool:
    """Whether a text holds a question or a request, by its marks and words."""
    return bool(_QUESTION.search(text) or _REQUEST.search(text.strip()))


def speaks_of_own(text: str) -> bool:
    """Whether a text is about whoever writes it, by its pronouns."""
    return _OWN.search(text) is not None


def says_nothing_alone(text: str) -> bool:
    """Whether a text is of words that tell something only after another: "Why?", "Go on"."""
    return _ALONE.issuperset(_WORDS.findall(text.casefold()))


def asks_of_own(text: str) -> bool:
    """Whether a text is a question about whoever writes it: "What is my name?"."""
    return bool(_QUESTION.search(text)) and _OF_OWN.search(text) is not None


def pieces_of(proposed: OffloadingDecision, query: str) -> tuple[Piece, ...]:
    """Return the levels of a query's parts as the gate reads them.

    A part that may not go is PRIVATE there, whatever its own level. Values of a request that is cut
    around them are masked, so the request counts as one part.

    Returns:
        Nothing where the guard gave no verdict, which the gate keeps on the device.
    """
    found = proposed.sensitivity
    if found.error is not None:
        return ()
    values = len(found.spans)
    if proposed.decision is not Route.HYBRID:
        return (Piece(found.level, _tokens(query), values),)
    if any(segment.entity for segment in proposed.segments):
        return (Piece(Level.SEMI_SENSITIVE, _tokens(query), values),)
    return tuple(
        Piece(_gated(segment, proposed), _tokens(segment.text), len(segment.spans))
        for segment in proposed.segments
    )


def _gated(segment: Segment, proposed: OffloadingDecision) -> Level:
    if segment.order in proposed.sent:
        return Level.PUBLIC
    return Level.SEMI_SENSITIVE if segment.order in proposed.masked else Level.PRIVATE


def _tokens(text: str) -> int:
    return max(1, len(text) // _CHARS_PER_TOKEN)
