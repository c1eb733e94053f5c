"""What would become of a message, part by part, where there is a cloud."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from ptmo_secure.hybrid.answering import Flow
from ptmo_secure.hybrid.consulting import Question
from ptmo_secure.hybrid.deciding import Situation
from ptmo_secure.hybrid.segments import leaving_of
from ptmo_secure.hybrid.telling import text_of
from ptmo_secure.privacy.decompose import Segment
from ptmo_secure.serve.routing import Preview, PreviewedSegment
from ptmo_secure.types import Route

if TYPE_CHECKING:
    from ptmo_secure.serve.hybrid_router import HybridRouting


_WHEN = {
    "cascade": "it goes only where the device's own answer is doubted",
    "delegate": "it stays: a general question that the device's model writes goes in its place",
    "fuse": "and of the answer what the guard lets go",
}


def previewed(
    routing: "HybridRouting", flow: Flow | None, drafted: Question | None, kept: Collection[int]
) -> Preview:
    """Return the parts of a message that was routed.

    Args:
        routing: of it.
        flow: how it would be answered; None: nothing leaves.
        drafted: what would go in its place where it is delegated; None: no draft may go.
        kept: numbers of the parts that its user keeps here.

    Security: what is shown as sent is the very request, masked by the vault of the user who asked,
    and goes to that user alone; egress may still refuse it.
    """
    case, question = routing.case, routing.question
    leaving = {0} if not case.proposed.segments else leaving_of(case.proposed, kept)
    if question is None:
        leaving = set()
    told = tuple(_told(segment, routing, flow, kept, leaving) for segment in _parts(case))
    if flow == "delegate":
        question = drafted
    if question is None:
        return Preview(routing, told, flow=flow)
    return Preview(routing, told, question.request.messages or (), question.request.tools, flow)


def _parts(case: Situation) -> tuple[Segment, ...]:
    """Return the segments; a message that is not divided is one."""
    if case.proposed.segments:
        return case.proposed.segments
    query, found = case.turn.query, case.turn.found
    whole = Segment(
        query, 0, len(query), found.level, found.score, 0, "", "end", found.spans, found.topics
    )
    return (whole,)


def _told(
    segment: Segment,
    routing: "HybridRouting",
    flow: Flow | None,
    kept: Collection[int],
    leaving: Collection[int],
) -> PreviewedSegment:
    case, goes = routing.case, segment.order in leaving
    proposed = case.proposed
    reasons = [f"{count} x {kind}" for kind, count in _kinds(segment).items()]
    reasons += [f"topic {topic}" for topic in segment.topics]
    if segment.refers_to is not None:
        reasons.append(f"refers to part {segment.refers_to + 1}")
    if segment.order in kept:
        reasons.append("you keep it on the device")
    elif not goes:
        said = proposed.reasons[-1:] if routing.question is None else ("it stays on the device",)
        reasons += list(said) or [f"it stays: {routing.reason}"]
    elif flow in _WHEN:
        reasons.append(_WHEN[flow])
    sent = _masked(segment, case) if goes and flow != "delegate" else None
    return PreviewedSegment(
        segment.order,
        segment.text,
        segment.separator,
        segment.level,
        segment.score,
        dict(_kinds(segment)),
        tuple(reasons),
        routing.route if goes else Route.LOCAL,
        sent,
    )


def _kinds(segment: Segment) -> Counter[str]:
    return Counter(span.kind for span in segment.spans)


def _masked(segment: Segment, case: Situation) -> str | None:
    vault, masked = case.turn.vault, case.turn.masked
    if case.turn.sent is not None:
        return text_of(case.turn.sent.messages[0])
    if vault is None or masked is None:
        return None
    if segment.text == case.turn.query:
        return masked.text
    if segment.entity is None:
        return vault.mask(segment.text).text
    # A value out of its context may not be found again: take what stands at its place in the whole
    places = zip(masked.spans, masked.places, strict=True)
    found = [place for span, place in places if span.start == segment.start]
    return masked.text[found[0].start : found[0].end] if found else None
