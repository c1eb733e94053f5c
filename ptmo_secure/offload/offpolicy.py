"""What another policy would have earned, estimated from the log of the one that ran.

For turn i with action a_i, drawn with probability p_i, and reward r_i; pi_i the probability with
which the other policy would have done a_i; w_i = pi_i / p_i; and q(x, a) a model of the reward:

    IPS    mean of w r                                        (Horvitz and Thompson, 1952)
    SNIPS  sum of w r / sum of w                              (Swaminathan and Joachims, 2015)
    DR     mean of sum_a pi(a) q(x, a) + w (r - q(x, a_i))    (Dudik et al., 2011)

IPS and DR are unbiased where p is right and above 0 for whatever the other policy does. Intervals
are normal, from the spread over turns; SNIPS's by the delta method.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats

_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a mean reward.

    Args:
        method: "ips", "snips" or "dr".
        value, low, high: mean, and the ends of its 95 % interval.
        effective: turns that it rests on, (sum w)^2 / sum w^2.
    """

    method: str
    value: float
    low: float
    high: float
    effective: float

    def as_json(self) -> dict[str, object]:
        """The estimate as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Logged:
    """A log, as numbers.

    Args:
        action: done in each turn, [n].
        propensity: with which it was drawn, [n], in (0, 1].
        reward: [n].
    """

    action: "NDArray[np.int64]"
    propensity: Floats
    reward: Floats

    def __post_init__(self) -> None:
        if not len(self.action) == len(self.propensity) == len(self.reward) >= 2:
            raise InputError(f"a log of {len(self.action)} turns: at least two are needed")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise InputError("a logged propensity is not in (0, 1]")
        if not np.isfinite(self.reward).all():
            raise InputError("a logged reward is no number")


def estimates(log: Logged, target: Floats, model: Floats) -> list[Estimate]:
    """Return IPS, SNIPS and DR.

    Args:
        log: n turns.
        target: probability of each action by the other policy, [n, actions].
        model: predicted reward of each action, [n, actions], by a model that has not seen the turn.

    Raises:
        InputError: the other policy never does what was logged, so the log says nothing about it.
    """
    rows = np.arange(len(log.action))
    weight = target[rows, log.action] / log.propensity
    if not weight.sum() > 0:
        raise InputError("the policy never does what the log shows: nothing can be estimated")
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    share = float((weight * log.reward).sum() / weight.sum())
    residual = weight * (log.reward - share) / weight.mean()
    expected = (target * model).sum(axis=1)
    corrected = expected + weight * (log.reward - model[rows, log.action])
    return [
        _normal("ips", weight * log.reward, effective),
        _around("snips", share, residual, effective),
        _normal("dr", corrected, effective),
    ]


def _normal(method: str, terms: Floats, effective: float) -> Estimate:
    return _around(method, float(terms.mean()), terms, effective)


def _around(method: str, value: float, terms: Floats, effective: float) -> Estimate:
    half = _Z * float(terms.std(ddof=1)) / len(terms) ** 0.5
    return Estimate(method, value, value - half, value + half, effective)
