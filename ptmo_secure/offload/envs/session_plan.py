"""The best that can be done in a session: an exact dynamic programme over its courses."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import USD, Floats, Kind
from ptmo_secure.offload.envs import session_model
from ptmo_secure.offload.envs.exhaustive import Best
from ptmo_secure.offload.envs.session_data import SessionTurn
from ptmo_secure.offload.envs.session_model import ACTIONS, States, World
from ptmo_secure.offload.gate import budget_mask, privacy_mask
from ptmo_secure.offload.reward import RewardWeights, Scales, known_terms, share_left

_OVER = 1e6  # outweighs any reward: a course over a budget counts only where all are
_LEADERS = 48


class SessionPlanner:
    """Prices courses of a session with their true outcomes.

    A label is a course so far: its reward, and the state it left. More budget, battery, cache and
    placeholders never make a later turn dearer, so a label with no more reward than another and no
    better state can be dropped; so can one that even the best thinkable rest would not lift above a
    course already known. What remains at the end holds an optimum.

    Args:
        turns: of the session.
        world: device, network, cloud.
        weights, scales: of the reward.
    """

    def __init__(
        self, turns: Sequence[SessionTurn], world: World, weights: RewardWeights, scales: Scales
    ) -> None:
        self._turns, self._world = turns, world
        self._weights, self._scales = weights, scales
        self._pasts = session_model.pasts(turns)

    def best(self, start: States, limits: Floats) -> Best:
        """Return the course with the highest reward among those that pass the gate.

        Args:
            start: one state.
            limits: budgets of the session, [4].
        """
        known = self._greedy(start, limits)
        bound = self._bounds(start)
        total, taken = np.zeros(1), np.zeros((1, 0), dtype=np.int64)
        states = start
        for number in range(len(self._turns)):
            states, total, taken = self._expand(number, states, total, taken, limits)
            over = (states.remaining < -1e-9).any(axis=1)
            value = total - _OVER * over
            hopeful = np.flatnonzero(value + bound[number + 1] >= known - 1e-9)
            order = hopeful[np.argsort(-value[hopeful], kind="stable")]
            order = order[_undominated(states.take(order), value[order])]
            states, total, taken = states.take(order), total[order], taken[order]
        over = np.asarray((states.remaining < -1e-9).any(axis=1))
        winner = int(np.argmax(total - _OVER * over))
        mean = float(total[winner]) / len(self._turns)
        return Best(tuple(int(a) for a in taken[winner]), mean, bool(over[winner]))

    def _gains(self, number: int, states: States, limits: Floats) -> tuple[Floats, Floats]:
        """True reward of each action [n, 5], and its true cost [n, 5, 4]."""
        turn, past = self._turns[number], self._pasts[number]
        cost = self._world.costs(turn, past, states, doubted=turn.doubted)
        quality = session_model.true_quality(turn, session_model.retained(turn, states))
        left = share_left(states.remaining[:, None, USD] - cost[:, :, USD], limits[USD])
        rest = known_terms(self._weights, self._scales, cost, 0.0, left)
        return self._weights.alpha * quality + rest, cost

    def _allowed(self, number: int, states: States) -> "NDArray[np.bool_]":
        """What the gate allows, [n, 5]; by the most an action can use, as in the environment."""
        turn, past = self._turns[number], self._pasts[number]
        most = self._world.costs(turn, past, states, doubted=True)
        fits = budget_mask(most, states.remaining)
        mask = privacy_mask(ACTIONS, turn.pieces, turn.sticky) & fits
        mask[~mask.any(axis=1)] = [action.kind is Kind.LOCAL for action in ACTIONS]
        return np.asarray(mask)

    def _expand(
        self,
        number: int,
        states: States,
        total: Floats,
        taken: "NDArray[np.int64]",
        limits: Floats,
    ) -> tuple[States, Floats, "NDArray[np.int64]"]:
        gains, cost = self._gains(number, states, limits)
        mask = self._allowed(number, states)
        parts: list[tuple[States, Floats, NDArray[np.int64]]] = []
        for action in range(len(ACTIONS)):
            rows = np.flatnonzero(mask[:, action])
            before = states.take(rows)
            after = session_model.advance(
                self._turns[number], self._pasts[number], before, action, cost[rows, action]
            )
            path = np.hstack([taken[rows], np.full((len(rows), 1), action)])
            parts.append((after, total[rows] + gains[rows, action], path))
        merged = session_model.concatenated([part[0] for part in parts])
        return merged, np.concatenate([p[1] for p in parts]), np.vstack([p[2] for p in parts])

    def _greedy(self, start: States, limits: Floats) -> float:
        """Reward of taking the best action of each turn, or minus a million if that goes over."""
        states, total = start, 0.0
        for number, turn in enumerate(self._turns):
            gains, cost = self._gains(number, states, limits)
            mask = self._allowed(number, states)
            action = int(np.argmax(np.where(mask[0], gains[0], -np.inf)))
            total += float(gains[0, action])
            states = session_model.advance(
                turn, self._pasts[number], states, action, cost[:, action]
            )
        return total - _OVER * bool((states.remaining < -1e-9).any())

    def _bounds(self, start: States) -> Floats:
        """The most that turns t, t + 1, ... can add in the best thinkable states, [turns + 1]."""
        most = np.zeros(len(self._turns) + 1)
        for number in reversed(range(len(self._turns))):
            turn, past = self._turns[number], self._pasts[number]
            ideal = States(
                np.full((1, 4), np.inf),
                start.battery,
                np.array([float(past.tokens)]),
                np.array([float(past.sendable)]),
                np.array([turn.values]),
            )
            gains, _ = self._gains(number, ideal, np.full(4, np.inf))
            open_ways = privacy_mask(ACTIONS, turn.pieces, turn.sticky)
            gain = float(gains[0][open_ways].max()) + self._weights.gamma
            most[number] = most[number + 1] + gain
        return most


def _undominated(states: States, value: Floats) -> "NDArray[np.int64]":
    """Drop labels that one of the leaders dominates; labels come with falling value."""
    worth = np.column_stack(
        [
            value,
            np.where(np.isfinite(states.remaining), states.remaining, 0.0),
            states.battery,
            states.local_seen,
            states.cloud_seen,
        ]
    )
    alive = np.ones(len(value), dtype=bool)
    for leader in range(min(_LEADERS, len(value))):
        if alive[leader]:
            worse = (worth[leader] >= worth).all(axis=1)
            worse &= (states.known & ~states.known[leader]) == 0
            worse[: leader + 1] = False
            alive &= ~worse
    return np.flatnonzero(alive)
