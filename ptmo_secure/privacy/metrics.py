"""What is counted: leaks, masked characters, flags, levels. Formulas in the docstrings.

Characters are alphanumeric ones throughout (`str.isalnum`): whether a comma inside an address was
masked decides nothing. A gold span without any is counted over all of its characters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ptmo_secure.intervals import clopper_pearson

MASKED_SHARE = 0.9
Range = tuple[int, int]


@dataclass(slots=True)
class Count:
    """Successes out of trials."""

    successes: int = 0
    trials: int = 0

    def add(self, success: bool) -> None:
        """Count one trial."""
        self.successes += success
        self.trials += 1

    @property
    def rate(self) -> float:
        """Successes divided by trials; 0 without any."""
        return self.successes / self.trials if self.trials else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Exact interval of the rate (Clopper-Pearson)."""
        return clopper_pearson(self.successes, self.trials)


@dataclass(slots=True)
class MaskCount:
    """Leaks and masked characters over many texts.

    leak recall = gold spans of which at least 90 % of the characters are masked / gold spans;
    character precision = masked characters inside a gold span / masked characters.
    """

    spans: Count = field(default_factory=Count)
    characters: Count = field(default_factory=Count)
    by_kind: dict[str, Count] = field(default_factory=dict)

    def add(
        self, text: str, gold: Sequence[tuple[int, int, str]], predicted: Iterable[Range]
    ) -> list[tuple[int, int, str]]:
        """Count one text.

        Args:
            text: the text.
            gold: (start, end, kind) of what is private.
            predicted: ranges that the guard would mask; they may overlap.

        Returns:
            The gold spans that leak.
        """
        masked = covered(len(text), predicted)
        inside = covered(len(text), [(start, end) for start, end, _ in gold])
        for index, char in enumerate(text):
            if masked[index] and char.isalnum():
                self.characters.add(bool(inside[index]))
        missed = []
        for start, end, kind in gold:
            kept = masked_share(text, start, end, masked) >= MASKED_SHARE
            self.spans.add(kept)
            self.by_kind.setdefault(kind, Count()).add(kept)
            if not kept:
                missed.append((start, end, kind))
        return missed


def covered(length: int, ranges: Iterable[Range]) -> bytearray:
    """One byte for each character: 1 where some range covers it.

    Raises:
        ValueError: a range is empty, reversed or outside of the text.
    """
    marks = bytearray(length)
    for start, end in ranges:
        if not 0 <= start < end <= length:
            raise ValueError(f"span {start}..{end} does not lie in a text of {length} characters")
        marks[start:end] = b"\x01" * (end - start)
    return marks


def masked_share(text: str, start: int, end: int, masked: bytearray) -> float:
    """Masked alphanumeric characters of a span / all of them; of any characters if it has none."""
    places = [i for i in range(start, end) if text[i].isalnum()] or list(range(start, end))
    return sum(masked[i] for i in places) / len(places)


@dataclass(slots=True)
class LevelCount:
    """A confusion matrix of levels.

    macro-F1 = mean over the levels of 2 TP / (2 TP + FP + FN).
    """

    levels: tuple[str, ...]
    cells: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, true: str, said: str) -> None:
        """Count one text.

        Raises:
            ValueError: a level is unknown.
        """
        for level in (true, said):
            if level not in self.levels:
                raise ValueError(f"unknown level {level!r}: expected one of {self.levels}")
        self.cells[true, said] = self.cells.get((true, said), 0) + 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.cells.values())

    def f1(self, level: str) -> float:
        """F1 of one level; 0 where it neither occurs nor is said."""
        hits = self.cells.get((level, level), 0)
        said = sum(n for (_, other), n in self.cells.items() if other == level)
        true = sum(n for (other, _), n in self.cells.items() if other == level)
        return 2 * hits / (said + true) if said + true else 0.0

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the levels."""
        return sum(self.f1(level) for level in self.levels) / len(self.levels)

    def share(self, true: str, said: str) -> Count:
        """Of the texts of level `true`, those classed `said`."""
        trials = sum(n for (other, _), n in self.cells.items() if other == true)
        return Count(self.cells.get((true, said), 0), trials)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or share is not in (0, 1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"percentile {share} of {len(values)} values")
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)
    return ordered[rank - 1]
