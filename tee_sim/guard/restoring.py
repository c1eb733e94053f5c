"""From text with placeholders or surrogates back to the values, whole or piece by piece."""

from collections.abc import Iterator
from typing import NamedTuple

from tee_sim.guard.stand_ins import StandIn, StandIns
from tee_sim.guard.vault import Session
from tee_sim.placeholders import Token, begun, fold, shapes


class Fill(NamedTuple):
    """A place in a text that stands for something: a placeholder's shape, or a surrogate."""

    start: int
    end: int
    token: Token | None
    tail: str = ""
    stand_in: StandIn | None = None


def find_fills(stand_ins: StandIns, text: str, folded: str, start: int = 0) -> Iterator[Fill]:
    """Yield what may stand for a value, in order, without overlaps; the first one counts.

    Args:
        stand_ins: the surrogates to look for.
        text: any string.
        folded: of `placeholders.fold`.
        start: where to begin; the character before it is looked at.
    """
    found = [Fill(s.start, s.end, s.token, s.tail) for s in shapes(text, folded, start)]
    if len(stand_ins):
        found += [
            Fill(low, high, None, stand_in=stand_in)
            for low, high, stand_in in stand_ins.find(text, folded, start)
        ]
        found.sort(key=lambda fill: (fill.start, fill.token is None))
    end = start
    for fill in found:
        if fill.start >= end:
            end = fill.end
            yield fill


def unmask(session: Session, text: str, *, context: int = 0, final: bool = True) -> tuple[str, int]:
    """Put the values back.

    Security: what this session did not issue stays as it is.

    Args:
        session: whose values.
        text: what was answered.
        context: so many characters at the beginning were given back before.
        final: no more text follows; else what may still become a placeholder is kept back.

    Returns:
        The text, and how much of `text` it stands for: all of it when `final`.
    """
    folded = fold(text)
    fills = list(find_fills(session.stand_ins, text, folded, context))
    stop = len(text)
    if not final:
        found = list(shapes(text, folded, context))
        stop = min(begun(folded, context, found), session.stand_ins.begun(folded, context))
        cut = next((f.start for f in fills if f.start < stop < f.end), stop)
        stop = min(stop, cut)
    pieces, at = [], context
    for fill in fills:
        if fill.end > stop:
            break
        pieces += [text[at : fill.start], _value(session, text, fill)]
        at = fill.end
    pieces.append(text[at:stop])
    return "".join(pieces), stop


def _value(session: Session, text: str, fill: Fill) -> str:
    if fill.stand_in is not None:
        value = session.value(fill.stand_in.token)
        words = None if value is None else fill.stand_in.of(value)
    else:
        words = session.value(fill.token) if fill.token is not None else None
    return text[fill.start : fill.end] if words is None else words + fill.tail
