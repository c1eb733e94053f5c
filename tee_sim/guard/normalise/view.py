"""A view: one reading of a text, and for each of its characters the originals it stands for."""

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tee_sim.guard.rules import Piece, as_piece

# (start, end, replacement): half-open range of the text that is edited
Edit = tuple[int, int, str]

_JOINER = "\u200d"
_MAX_WORD = 300
_MAX_CLUSTER = 32  # beyond it a run of combining marks is taken as noise: bounded work per span


@dataclass(frozen=True, slots=True)
class View:
    """A reading of a text.

    Args:
        text: the reading.
        starts, ends: for each of its characters the half-open range of originals behind it.
        fresh: ranges that differ from the view it was made from; None when all of it is new.
        recased: whether it differs in capital letters alone.
    """

    text: Piece
    starts: "Sequence[int]"
    ends: "Sequence[int]"
    fresh: tuple[tuple[int, int], ...] | None = None
    recased: bool = False

    @classmethod
    def identity(cls, text: str) -> "View":
        """Return the text as it stands."""
        return cls(as_piece(text), range(len(text)), range(1, len(text) + 1))

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the range of originals behind `start` to `end` (not empty) of this view.

        Maps rise or fall from left to right, so that the two ends tell.
        """
        last = end - 1
        return (
            min(self.starts[start], self.starts[last]),
            max(self.ends[start], self.ends[last]),
        )

    def edited(self, edits: Iterable[Edit]) -> "View":
        """Return the view with some ranges replaced; this one when nothing changes.

        Every character of a replacement stands for the whole range it replaces, so that a hit on
        part of a decoded run covers all of it.

        Args:
            edits: in order; one that begins inside an earlier one is left out.
        """
        pieces: list[str] = []
        starts, ends = array("I"), array("I")
        fresh: list[tuple[int, int]] = []
        at = length = 0
        for start, end, replacement in edits:
            if start < at or self.text[start:end] == replacement:
                continue
            low, high = self.original(start, end)
            pieces += (self.text[at:start], replacement)
            length += start - at + len(replacement)
            fresh.append((length - len(replacement), length))
            starts.extend(self.starts[at:start])
            ends.extend(self.ends[at:start])
            starts.extend([low] * len(replacement))
            ends.extend([high] * len(replacement))
            at = end
        if not pieces:
            return self
        pieces.append(self.text[at:])
        starts.extend(self.starts[at:])
        ends.extend(self.ends[at:])
        return View(Piece("".join(pieces)), starts, ends, tuple(fresh))

    def windows(self, reach: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to scan: what is new and `reach` characters around, cut at blanks.

        Whoever looked at the view that this was made from has seen all else.
        """
        if self.fresh is None:
            yield 0, len(self.text)
            return
        low, high = self.fresh[0]
        for start, end in self.fresh:
            if start - high > 2 * reach:
                yield self.at_blanks(max(0, low - reach), high + reach)
                low = start
            high = end
        yield self.at_blanks(max(0, low - reach), min(len(self.text), high + reach))

    def at_blanks(self, low: int, high: int) -> tuple[int, int]:
        """Widen a range so that it cuts no word of usual length."""
        for _ in range(_MAX_WORD):
            if low == 0 or self.text[low - 1] in " \n":
                break
            low -= 1
        for _ in range(_MAX_WORD):
            if high == len(self.text) or self.text[high] in " \n":
                break
            high += 1
        return low, high

    def translated(self, table: dict[int, int]) -> "View":
        """Return the view with single characters exchanged for single others."""
        return View(Piece(self.text.translate(table)), self.starts, self.ends)

    def reversed(self) -> "View":
        """Return the view read from its end."""
        return View(Piece(self.text[::-1]), self.starts[::-1], self.ends[::-1])


def whole_clusters(text: str, start: int, end: int) -> tuple[int, int]:
    """Extend a range so that it cuts no grapheme cluster (the common part of UAX #29).

    Combining marks, variation selectors, invisible format characters and skin tones belong to
    what stands before them, and a zero-width joiner ties both its neighbours.
    """
    for _ in range(_MAX_CLUSTER):
        if start == 0 or not (_extends(text[start]) or text[start - 1] == _JOINER):
            break
        start -= 1
    for _ in range(_MAX_CLUSTER):
        if end == len(text) or not (_extends(text[end]) or text[end - 1] == _JOINER):
            break
        end += 1
    return start, end


def _extends(char: str) -> bool:
    return not char.isascii() and (
        unicodedata.category(char) in ("Mn", "Me", "Mc", "Cf")
        or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
