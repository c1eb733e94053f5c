"""The best that can be done in a conversation: every sequence of actions, priced exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptmo_secure.offload.actions import USD, Floats, Piece
from ptmo_secure.offload.envs.response import ACTIONS
from ptmo_secure.offload.gate import budget_mask, privacy_mask
from ptmo_secure.offload.outcomes import Conversation
from ptmo_secure.offload.reward import RewardWeights, Scales, known_terms, share_left

_OVER = 1e6  # outweighs any reward: a sequence over a budget counts only where all are


@dataclass(frozen=True, slots=True)
class Script:
    """What is fixed about a conversation before anyone acts in it.

    Args:
        turns: as logged.
        pieces: levels of each turn's parts.
        sticky: of each turn, see `View.sticky`.
        cost: [turns, 9, 4].
        association: [turns, 9], normalised.
    """

    turns: Conversation
    pieces: tuple[tuple[Piece, ...], ...]
    sticky: tuple[bool, ...]
    cost: Floats
    association: Floats


@dataclass(frozen=True, slots=True)
class Best:
    """The best sequence.

    Args:
        actions: one a turn.
        reward: mean over the turns.
        over_budget: whether even this one exceeds a budget.
    """

    actions: tuple[int, ...]
    reward: float
    over_budget: bool


def best_actions(
    script: Script,
    quality: Sequence[Floats],
    weights: RewardWeights,
    scales: Scales,
    limits: Floats,
) -> Best:
    """Return the sequence of allowed actions with the highest reward.

    max over a of sum_t R(s_t, a_t) where each a_t passes the gate; among sequences within all
    budgets, if there is any. The score of a turn depends on all earlier actions, so no two
    sequences meet in one state and nothing can be merged: at most 9^5 sequences are priced.

    Args:
        quality: of turn t, [9^t, 9], see `ResponseModel.along`.
        limits: budgets of the conversation, [4].
    """
    total = np.zeros(1)
    remaining = limits[None, :]
    for turn, scores in enumerate(quality):
        cost = script.cost[turn]
        private = privacy_mask(ACTIONS, script.pieces[turn], script.sticky[turn])
        open_ways = private & budget_mask(cost, remaining)
        stuck = ~open_ways.any(axis=1)
        open_ways[stuck] = np.arange(len(ACTIONS)) == 0
        after = remaining[:, None, :] - cost[None, :, :]
        left = share_left(after[:, :, USD], limits[USD])
        rest = known_terms(weights, scales, cost, script.association[turn], left)
        gained = total[:, None] + weights.alpha * scores + rest
        total = np.where(open_ways, gained, -np.inf).ravel()
        remaining = after.reshape(-1, after.shape[2])
    over = np.asarray((remaining < -1e-9).any(axis=1))
    best = int(np.argmax(total - _OVER * over))
    turns = len(quality)
    digits = [best // len(ACTIONS) ** (turns - 1 - t) % len(ACTIONS) for t in range(turns)]
    return Best(tuple(digits), float(total[best]) / turns, bool(over[best]))
