"""From a text and its spans to a masked text that `restoring.unmask` takes back exactly.

What the user wrote and only looks like a placeholder, or is one of the session's surrogates, is
itself put into the vault, under the kind TEXT. The masked text is then read as `unmask` would read
it: what is not found as it was put in is widened or gets a placeholder, until nothing is left.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tee_sim.guard.generalise import generalise
from tee_sim.guard.restoring import Fill, find_fills
from tee_sim.guard.stand_ins import core
from tee_sim.guard.surrogates import give_stand_in, note_words
from tee_sim.guard.vault import Session
from tee_sim.placeholders import ESCAPED, Token, fold
from tee_sim.scan_result import Span, Style

_MOST_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text that is shown as something else.

    Args:
        start, end: the part.
        shown: what is shown.
        token: of what is restored; None: nothing is.
        value: the range that the token stands for; a surrogate leaves marks around it as they are.
    """

    start: int
    end: int
    shown: str
    token: Token | None
    value: tuple[int, int]

    def as_placeholder(self) -> "Piece":
        """Return the piece of the whole value, with its placeholder."""
        return Piece(*self.value, str(self.token), self.token, self.value)


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A masked text, and where in it each span is."""

    text: str
    places: tuple[tuple[int, int], ...]


def mask(session: Session, text: str, spans: Sequence[Span], style: Style) -> MaskedText:
    """Show something else in the place of every span.

    Security: all of a span is replaced, also where its value is known already; when this raises,
    the session holds what it held before.

    Args:
        session: where the values go.
        text: any string.
        spans: ordered, not overlapping.
        style: "placeholder", "surrogate", or "generalise", which is not taken back.

    Raises:
        TeeError: OUT_OF_MEMORY: the vault is full.
    """
    before = set(session.entries)
    try:
        if style == "surrogate":
            note_words(session, text)
        pieces = [_piece(session, text, span, style) for span in spans]
        masked, settled = _settle(session, text, pieces)
    except BaseException:
        session.drop([token for token in session.entries if token not in before])
        raise
    return MaskedText(masked, tuple(_places(spans, settled)))


def _piece(session: Session, text: str, span: Span, style: Style) -> Piece:
    value, whole = text[span.start : span.end], (span.start, span.end)
    if style == "generalise":
        return Piece(span.start, span.end, generalise(span.kind, value), None, whole)
    token = session.issue(span.kind, value)
    shown = give_stand_in(session, token, value) if style == "surrogate" else ""
    if not shown:
        return Piece(span.start, span.end, str(token), token, whole)
    low, high = core(value)
    return Piece(span.start + low, span.start + high, shown, token, whole)


def _settle(session: Session, text: str, pieces: list[Piece]) -> tuple[str, list[Piece]]:
    """Return the masked text and its pieces once it reads as it was written."""
    for _ in range(_MOST_ROUNDS):
        masked, starts = _render(text, pieces)
        again = _mended(session, text, pieces, masked, starts)
        if again is None:
            return masked, pieces
        pieces = again
    token = session.issue(ESCAPED, text)
    whole = Piece(0, len(text), str(token), token, (0, len(text)))
    return whole.shown, [whole]


def _render(text: str, pieces: Sequence[Piece]) -> tuple[str, list[int]]:
    parts, starts, at, size = [], [], 0, 0
    for piece in pieces:
        parts += [text[at : piece.start], piece.shown]
        starts.append(size + piece.start - at)
        size = starts[-1] + len(piece.shown)
        at = piece.end
    return "".join([*parts, text[at:]]), starts


def _mended(
    session: Session, text: str, pieces: list[Piece], masked: str, starts: list[int]
) -> list[Piece] | None:
    """Return pieces for another round, or None when every one is found and nothing else."""
    at = {start: i for i, start in enumerate(starts) if pieces[i].token is not None}
    found: set[int] = set()
    strays: list[tuple[int, int]] = []
    for fill in find_fills(session.stand_ins, masked, fold(masked)):
        index = at.get(fill.start, -1)
        if index >= 0 and _stands_for(session, fill, pieces[index], text):
            found.add(index)
        else:
            strays.append((fill.start, fill.end))
    lost = [i for i, p in enumerate(pieces) if p.token is not None and i not in found]
    if not strays and not lost:
        return None
    ranges: list[tuple[int, int, Piece | None]] = [
        (*_original(span, pieces, starts), None) for span in strays
    ]
    changed = set(lost)
    for index, piece in enumerate(pieces):
        ranges.append((*piece.value, piece.as_placeholder() if index in changed else piece))
    return _escaped(session, text, ranges)


def _stands_for(session: Session, fill: Fill, piece: Piece, text: str) -> bool:
    if fill.end - fill.start != len(piece.shown):
        return False
    if fill.token is not None:
        return fill.token == piece.token and not fill.tail
    value = session.value(fill.stand_in.token) if fill.stand_in is not None else None
    part = fill.stand_in.of(value) if fill.stand_in is not None and value is not None else None
    return part == text[piece.start : piece.end]


def _original(
    span: tuple[int, int], pieces: Sequence[Piece], starts: Sequence[int]
) -> tuple[int, int]:
    """Return the range of the text that a range of the masked text stands for, pieces whole."""
    ends = []
    for position, is_end in ((span[0], False), (span[1] - 1, True)):
        index = bisect_right(starts, position) - 1
        if index < 0:
            ends.append(position + is_end)
            continue
        piece, after = pieces[index], starts[index] + len(pieces[index].shown)
        if position < after:
            ends.append(piece.value[1] if is_end else piece.value[0])
        else:
            ends.append(piece.end + position - after + is_end)
    return ends[0], ends[1]


def _escaped(
    session: Session, text: str, ranges: list[tuple[int, int, Piece | None]]
) -> list[Piece]:
    """Return pieces of the kind TEXT for ranges without one, which take in all that they touch."""
    groups: list[tuple[int, int, list[Piece | None]]] = []
    for low, high, piece in sorted(ranges, key=lambda each: each[:2]):
        if groups and low < groups[-1][1]:
            first, last, members = groups[-1]
            groups[-1] = (first, max(last, high), [*members, piece])
        else:
            groups.append((low, high, [piece]))
    pieces = []
    for low, high, members in groups:
        if len(members) == 1 and members[0] is not None:
            pieces.append(members[0])
        else:
            token = session.issue(ESCAPED, text[low:high])
            pieces.append(Piece(low, high, str(token), token, (low, high)))
    return pieces


def _places(spans: Sequence[Span], pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """Yield where in the masked text each span is: the pieces that cover it."""
    shift, index = 0, 0
    for span in spans:
        while index < len(pieces) and pieces[index].end <= span.start:
            shift += len(pieces[index].shown) - (pieces[index].end - pieces[index].start)
            index += 1
        piece = pieces[index]
        low = piece.start + shift
        yield low, low + len(piece.shown)
