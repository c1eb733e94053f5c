"""Interleaved rounds: A B A B, so that a machine that changes its speed changes both alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Paired:
    """What two sides gave in the same rounds: medians of their turns, and of the turns' ratios."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what the machine did to both sides cancels."""
        return statistics.median(self.ratios)


def interleave(
    sides: Mapping[str, Callable[[], float]], rounds: int, runs: int = 1
) -> dict[str, tuple[float, ...]]:
    """Measure every side in every round, one after the other.

    Args:
        sides: measurements by name; each returns one figure.
        rounds: how often to go round.
        runs: turns a side has within a round, themselves interleaved; their median counts.

    Returns:
        Per side, one figure a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(runs):
            for name, measure in sides.items():
                taken[name].append(measure())
        for name, values in taken.items():
            figures[name].append(statistics.median(values))
    return {name: tuple(values) for name, values in figures.items()}


def compare(
    a: Callable[[], float], b: Callable[[], float], rounds: int = ROUNDS, runs: int = 1
) -> Paired:
    """Measure two sides in turn. A turn of `a` is set against the turn of `b` that follows it."""
    taken = [[(a(), b()) for _ in range(runs)] for _ in range(rounds)]
    return Paired(
        tuple(statistics.median(x for x, _ in turns) for turns in taken),
        tuple(statistics.median(y for _, y in turns) for turns in taken),
        tuple(statistics.median(x / y for x, y in turns) for turns in taken),
    )
