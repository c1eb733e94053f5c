"""The surrogates of a session, and where they stand in a text.

Read in any case; as written when two differ in case alone. A single word of a name stands for that
word: "Maria" for "Ann" where "Maria Lopez" is "Ann Lee", but not "maria".
"""

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tee_sim.placeholders import Token, fold

MAX_CHARS = 160
_HANGUL = "\uac00-\ud7a3"
_WORD = re.compile(rf"[{_HANGUL}]+|[^\W_{_HANGUL}]+")
_HANGUL_NAME = (2, 3, 4)


class StandIn(NamedTuple):
    """A surrogate: its text, the token of the value, and which word of it (-1: all)."""

    text: str
    token: Token
    word: int = -1

    def of(self, value: str) -> str:
        """Return the part of the value that this stands for."""
        if self.word >= 0:
            return bare_word(value.split()[self.word])
        low, high = core(value)
        return value[low:high]


class StandIns:
    """All surrogates of a session, to be found by their first word."""

    def __init__(self) -> None:
        self._by_word: dict[str, list[tuple[str, StandIn]]] = {}
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[StandIn]:
        return (stand_in for row in self._by_word.values() for _, stand_in in row)

    def add(self, stand_in: StandIn) -> None:
        """Take one in; its text begins with a letter or digit."""
        folded = fold(stand_in.text)
        insort(self._sorted, folded)
        row = self._by_word.setdefault(words(folded)[0], [])
        row.append((folded, stand_in))
        row.sort(key=lambda pair: -len(pair[0]))

    def remove(self, tokens: Iterable[Token]) -> None:
        """Let go of those of some values."""
        gone = set(tokens)
        kept = [stand_in for stand_in in self if stand_in.token not in gone]
        self._by_word.clear()
        self._sorted.clear()
        for stand_in in kept:
            self.add(stand_in)

    def knows(self, text: str) -> bool:
        """Whether a text is one of them, in any case."""
        folded = fold(text)
        return any(folded == known for known, _ in self._by_word.get(words(folded)[0], ()))

    def find(self, text: str, folded: str, start: int) -> Iterator[tuple[int, int, StandIn]]:
        """Yield where they stand, in order, without overlaps; longer ones first.

        Args:
            text, folded: the text, and of `placeholders.fold`.
            start: where to begin; the character before it is looked at.
        """
        if not self._by_word:
            return
        end = start
        for match in _WORD.finditer(folded, start):
            low = match.start()
            if low < end or (low == start and _runs_on(folded, low)):
                continue
            hit = self._at(text, folded, low, match.group())
            if hit is not None:
                end = low + len(hit.text)
                yield low, end, hit

    def _at(self, text: str, folded: str, low: int, word: str) -> StandIn | None:
        row = self._by_word.get(word, [])
        if "\uac00" <= word[0] <= "\ud7a3":
            row = [p for n in reversed(_HANGUL_NAME) for p in self._by_word.get(word[:n], ())]
        hits = [
            (folded_text, stand_in)
            for folded_text, stand_in in row
            if folded.startswith(folded_text, low)
            and (stand_in.word < 0 or text[low : low + len(folded_text)] in _written(stand_in))
            and not _runs_on(folded, low + len(folded_text), hangul=False)
        ]
        if not hits:
            return None
        longest = [s for folded_text, s in hits if len(folded_text) == len(hits[0][0])]
        return next((s for s in longest if text.startswith(s.text, low)), longest[0])

    def begun(self, folded: str, start: int) -> int:
        """Return where the part of a text begins that more text may make one of them."""
        size = len(folded)
        if not self._sorted:
            return size
        for match in _WORD.finditer(folded, max(start, size - MAX_CHARS)):
            tail = folded[match.start() :]
            at = bisect_left(self._sorted, tail)
            if at < len(self._sorted) and self._sorted[at].startswith(tail):
                return match.start()
        return size


def core(value: str) -> tuple[int, int]:
    """Return the range from the first letter or digit of a value to the last."""
    found = list(_WORD.finditer(value))
    return (found[0].start(), found[-1].end()) if found else (0, 0)


def words(text: str) -> list[str]:
    """Return the runs of letters and digits of a text; Hangul is apart from other letters."""
    return _WORD.findall(text)


def bare_word(word: str) -> str:
    """Return a word without the marks around it."""
    low, high = core(word)
    return word[low:high]


def _written(stand_in: StandIn) -> tuple[str, str]:
    return stand_in.text, stand_in.text.upper()


def _runs_on(folded: str, at: int, *, hangul: bool = True) -> bool:
    """Whether a word goes on over a place; one of Hangul may, for particles follow directly."""
    pair = folded[at - 1 : at + 1] if at else ""
    whole = len(pair) == 2 and _WORD.fullmatch(pair) is not None
    return whole and (hangul or not "\uac00" <= pair[0] <= "\ud7a3")
