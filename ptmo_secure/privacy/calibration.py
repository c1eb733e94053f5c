"""From a score to a probability: how often labelled chats of such a score are not PUBLIC.

The score is a risk, and its severities are fixed by what a value opens or tells; calibration leaves
them alone. Whoever wants a probability reads it off a monotone step function that was fitted to
the labelled chats by pool adjacent violators (Ayer et al., 1955; as calibration: Zadrozny and
Elkan, 2002), every step shrunk towards the base rate. `python -m ptmo_secure.privacy.calibration`
fits it anew.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PRIOR_ITEMS = 2.0  # each step counts two more chats than it has, at the base rate


@dataclass(frozen=True, slots=True)
class Calibration:
    """A non-decreasing step function from score to probability.

    Args:
        starts: least score of each step, ascending, the first 0.
        values: probability on each step.
    """

    starts: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, score: float) -> float:
        """Return the probability at a score in [0, 1]."""
        return self.values[max(0, bisect_right(self.starts, score) - 1)]


def fit(scores: Sequence[float], outcomes: Sequence[bool]) -> Calibration:
    """Fit a step function to scored outcomes.

    Args:
        scores: in [0, 1]; at least one.
        outcomes: whether the event happened, one for each score.

    Raises:
        ValueError: none, or not as many outcomes as scores.
    """
    if not scores or len(scores) != len(outcomes):
        raise ValueError(f"{len(scores)} scores, {len(outcomes)} outcomes")
    base = sum(outcomes) / len(outcomes)
    items_of, events_of = Counter(scores), Counter[float]()
    for score, outcome in zip(scores, outcomes, strict=True):
        events_of[score] += bool(outcome)
    steps: list[list[float]] = []  # least score, items, events
    for score in sorted(items_of):
        steps.append([score, items_of[score], events_of[score]])
        while len(steps) > 1 and steps[-2][2] * steps[-1][1] >= steps[-1][2] * steps[-2][1]:
            _, items, events = steps.pop()
            steps[-1][1] += items
            steps[-1][2] += events
    values: list[float] = []
    for _, items, events in steps:
        shrunk = (events + _PRIOR_ITEMS * base) / (items + _PRIOR_ITEMS)
        values.append(max(shrunk, *values[-1:]) if values else shrunk)
    return Calibration((0.0, *(step[0] for step in steps[1:])), tuple(values))


def expected_calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10
) -> float:
    """Return the mean gap between probability and frequency over equal-width bins.

    ``sum_b n_b / n * |mean probability - mean outcome|`` (Naeini, Cooper and Hauskrecht, 2015).
    """
    gaps = [[0.0, 0.0] for _ in range(bins)]
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        bin_ = gaps[min(bins - 1, int(probability * bins))]
        bin_[0] += probability
        bin_[1] += outcome
    return sum(abs(said - seen) for said, seen in gaps) / len(probabilities)


def cross_fitted(scores: Sequence[float], outcomes: Sequence[bool], folds: int = 10) -> list[float]:
    """Return for each score the probability of a function that was fitted without its fold.

    Every `folds`-th item is of one fold.
    """
    fitted = []
    for fold in range(folds):
        rest = [i for i in range(len(scores)) if i % folds != fold]
        fitted.append(fit([scores[i] for i in rest], [outcomes[i] for i in rest]))
    return [fitted[i % folds](score) for i, score in enumerate(scores)]


# Of the 354 labelled chats, 233 of them not PUBLIC, by the guard as it was when this was fitted
NOT_PUBLIC = Calibration(
    (0.0, 0.1, 0.25, 0.51, 0.859, 0.985), (0.04, 0.579, 0.805, 0.932, 0.98, 0.98)
)


def _main() -> None:
    """Print the function for the guard as it is."""
    from ptmo_secure.privacy.guards import open_guard
    from ptmo_secure.privacy.suites import chats

    with open_guard() as guard:
        rated = [(guard.scan(chat.text), chat.level != "PUBLIC") for chat in chats()]
    fitted = fit([scan.score or 0.0 for scan, _ in rated], [outcome for _, outcome in rated])
    print("starts", tuple(round(start, 3) for start in fitted.starts))
    print("values", tuple(round(value, 3) for value in fitted.values))


if __name__ == "__main__":
    _main()
