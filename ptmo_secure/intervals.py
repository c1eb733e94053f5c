"""Intervals of a rate that was counted: exact, and Wilson's."""

from math import sqrt

from scipy.stats import beta, norm  # type: ignore[attr-defined,unused-ignore]  # no stubs

CONFIDENCE = 0.95


def clopper_pearson(
    successes: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact two-sided interval of a binomial rate (Clopper and Pearson, Biometrika 26, 1934).

    Returns:
        (low, high); (0, 1) when there was no trial.
    Raises:
        ValueError: successes is not in 0..trials, or confidence not in (0, 1).
    """
    _check(successes, trials, confidence)
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0
    return low, high


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a binomial rate (Wilson, JASA 22, 1927): narrower, right on average.

    Returns:
        (low, high); (0, 1) when there was no trial.
    Raises:
        ValueError: successes is not in 0..trials, or confidence not in (0, 1).
    """
    _check(successes, trials, confidence)
    if trials == 0:
        return 0.0, 1.0
    z = float(norm.ppf((1 + confidence) / 2))
    rate, spread = successes / trials, z * z / trials
    middle = rate + spread / 2
    half = z * sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _check(successes: int, trials: int, confidence: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"successes is {successes}, not in 0..{trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, not in (0, 1)")
