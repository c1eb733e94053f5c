"""The reward of one turn, and the units its terms are measured in."""

from dataclasses import dataclass, fields

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import LATENCY, RISK, USD, Floats


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """R = alpha Q + beta1 A - beta2 L - beta3 C - beta4 P + gamma B, all terms without unit.

    | term | normalised as |
    | --- | --- |
    | Q quality | as the outcome table scores it; 1 is a full answer (M4A1: the reference's) |
    | A association | how well the uploaded images fit the question, min-max over the actions |
    | L latency | seconds / `Scales.latency_s` |
    | C cost | dollars / `Scales.usd` |
    | P privacy risk | expected private values that leave the device readable / `Scales.risk` |
    | B budget bonus | share of the dollar budget that is still left after the turn, in [0, 1] |

    Args:
        alpha, beta1, beta2, beta3, beta4, gamma: at least 0. The defaults of the first four are
            TMO's (1 and three times 1/3).
    """

    alpha: float = 1.0
    beta1: float = 1 / 3
    beta2: float = 1 / 3
    beta3: float = 1 / 3
    beta4: float = 1 / 3
    gamma: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"reward weight {item.name} is {value}: it is at least 0")


@dataclass(frozen=True, slots=True)
class Scales:
    """What counts as 1 for latency, cost and risk: the dearest single action of the environment.

    Args:
        latency_s, usd, risk: above 0.
        offset: seconds and dollars that count as 0, [2]; TMO's min-max takes the cheapest action.
    """

    latency_s: float
    usd: float
    risk: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("latency_s", "usd", "risk"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"the scale of {name} is {value}: it is above 0")


def known_terms(
    weights: RewardWeights,
    scales: Scales,
    cost: Floats,
    association: Floats | float,
    budget_left: Floats | float = 0.0,
) -> Floats:
    """Return every term of the reward but quality, one value for each action.

    Args:
        weights, scales: of the environment.
        cost: [..., actions, 4], see `RESOURCES`.
        association: [..., actions], normalised.
        budget_left: share of the dollar budget left after each action, clipped to [0, 1].
    """
    latency = (cost[..., LATENCY] - scales.offset[0]) / scales.latency_s
    usd = (cost[..., USD] - scales.offset[1]) / scales.usd
    return np.asarray(
        weights.beta1 * np.asarray(association)
        - weights.beta2 * latency
        - weights.beta3 * usd
        - weights.beta4 * cost[..., RISK] / scales.risk
        + weights.gamma * np.clip(budget_left, 0.0, 1.0)
    )


def share_left(left: Floats, limit: float) -> Floats:
    """Return which share of a budget is left; 0 where there is no budget to save."""
    return left / limit if np.isfinite(limit) and limit > 0 else np.zeros_like(left)
