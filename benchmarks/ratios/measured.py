"""What a measurement is asked for, and what it gives."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rounds import ROUNDS

from ptmo_secure.config import DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure."""

    model: str = DEFAULT_MODEL
    rounds: int = ROUNDS
    # Turns each side has in a round, and tokens a turn: short ones, for a shared machine keeps its
    # speed for a second or two, and both sides must meet each of its speeds.
    runs: int = 18
    decode_tokens: int = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure: the median of its rounds, and what it was made of."""

    value: float
    rounds: tuple[float, ...]
    detail: dict[str, float] = field(default_factory=dict)


Measure = Callable[[Settings, int], Measured]  # (settings, threads)


def median_of(rounds: Sequence[float], **detail: float) -> Measured:
    """A figure from its rounds."""
    return Measured(statistics.median(rounds), tuple(rounds), detail)
