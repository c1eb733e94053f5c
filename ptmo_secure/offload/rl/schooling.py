"""The environment a learner trains in: features for observations, and a budget drawn each time."""

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from ptmo_secure.errors import SecurityError
from ptmo_secure.offload import gate
from ptmo_secure.offload.actions import RESOURCES, Floats, Mask
from ptmo_secure.offload.envs.base import Observation, OffloadEnv
from ptmo_secure.offload.rl.advice import Advice
from ptmo_secure.offload.rl.features import describe, layout_of
from ptmo_secure.offload.rl.pilot import Pilot

_JITTER = 0.3  # spread of the logarithm of the prices shown, so that values near them are learnt
LOOKED_AT = 1500
"""Turns that say what is normal; a training of fewer looks at no more than it has."""


class School(gym.Env[Observation, np.int64]):
    """Shows an environment to a learner: closed loop, feature vectors, masks, budgets, prices.

    Each episode is a random one of the training split under a budget between the given ones, drawn
    evenly in the logarithm of each part, or exactly one of them; so that one policy learns all.
    Where the advice knows the expected reward of a turn, that is what the learner earns: the reward
    that came differs from it by luck alone, whose variance is many times that of what can be known.

    Args:
        env: of the training split.
        budgets: as in `OffloadEnv.set_budget`; at least one.
        advice: what each action is expected to bring.
        seed: of the draws.
    """

    def __init__(
        self, env: OffloadEnv, budgets: Sequence[tuple[float, ...]], advice: Advice, seed: int
    ) -> None:
        self.env, self._advice = env.practice(seed), advice
        self.units = np.ones(len(RESOURCES))
        self.rng = np.random.default_rng([seed, 77])
        self._budgets = [tuple(budget) for budget in budgets]
        self.prices = np.zeros(len(RESOURCES))
        self._shown = self.prices
        self._mask: Mask = np.ones(len(env.actions), dtype=bool)
        self.env.set_budget(self._budgets[0])
        self.env.reset(seed=seed, options={"episode": 0})
        self.layout = layout_of(self.env.view())
        self.action_space = gym.spaces.Discrete(len(env.actions))
        size = (self.layout.size,)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, size, np.float32)
        self._ended = np.zeros(self.layout.size, np.float32)

    def show(self, prices: Floats) -> None:
        """Let the next episodes be under other multipliers."""
        self.prices = prices.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a random episode."""
        super().reset(seed=seed)
        self.env.set_budget(self._budget())
        self.env.reset(options={"episode": int(self.rng.integers(self.env.episodes))})
        jitter = np.exp(_JITTER * self.rng.standard_normal(len(RESOURCES)))
        self._shown = self.prices * jitter
        return self._observation(), {}

    def step(
        self, action: "np.int64 | int"
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Do an action.

        Raises:
            SecurityError: the gate does not allow it.
        """
        if not self._mask[int(action)]:
            raise SecurityError(f"a learner wants action {int(action)}, which is not allowed")
        expected = self._advice.expected(self.env.view())
        _, reward, done, cut, info = self.env.step(np.int64(action))
        if expected is not None:
            reward = float(expected[int(action)])
        seen = self._ended if done else self._observation()
        return seen, float(reward), done, cut, info

    def action_masks(self) -> Mask:
        """What the gate allows now."""
        return self._mask

    def trial(self, pilot: Pilot, episodes: int) -> float:
        """Return what a pilot earns per turn on the first practice episodes, over all budgets."""
        env = copy.copy(self.env)  # the learner is in the middle of an episode of its own
        earned = []
        for budget in self._budgets:
            env.set_budget(budget)
            for episode in range(min(episodes, env.episodes)):
                env.reset(options={"episode": episode})
                rewards: list[float] = []
                done = False
                while not done:
                    seen, mask = self._described(env, pilot.prices)
                    action = pilot.act(seen.astype(np.float64), mask)
                    expected = self._advice.expected(env.view())
                    _, reward, done, _, _ = env.step(np.int64(action))
                    rewards.append(float(reward if expected is None else expected[action]))
                earned.append(float(np.mean(rewards)))
        return float(np.mean(earned))

    def normal(self, turns: int = LOOKED_AT) -> tuple[Floats, Floats, Floats]:
        """Play at random, and return shift and scale of the body, and the mean cost of an episode.

        Args:
            turns: at least so many.

        Returns:
            ([body], [body], [4]).
        """
        bodies: list[Floats] = []
        costs: list[Floats] = []
        while len(bodies) < turns:
            seen, _ = self.reset()
            done, cost = False, np.zeros(len(RESOURCES))
            while not done:
                bodies.append(seen[: self.layout.body].astype(np.float64))
                action = self.rng.choice(np.flatnonzero(self._mask))
                seen, _, done, _, info = self.step(int(action))
                cost += info["cost"]
            costs.append(cost)
        body = np.array(bodies)
        spread = body.std(axis=0)
        scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
        return body.mean(axis=0), scale, np.mean(costs, axis=0)

    def _budget(self) -> tuple[float, ...]:
        """One of the budgets, or one between the lowest and the highest of each part."""
        if len(self._budgets) == 1 or self.rng.random() < 0.5:
            return self._budgets[int(self.rng.integers(len(self._budgets)))]
        low, high = np.min(self._budgets, axis=0), np.max(self._budgets, axis=0)
        share = self.rng.random()  # one for all parts: they tighten together
        return tuple(_between(float(a), float(b), share) for a, b in zip(low, high, strict=True))

    def _observation(self) -> Observation:
        seen, self._mask = self._described(self.env, self._shown)
        return seen

    def _described(self, env: OffloadEnv, prices: Floats) -> tuple[Observation, Mask]:
        view = env.view()
        mask = gate.allowed(view)
        advised = self._advice.rewards(view, mask, learning=True)
        return describe(view, advised, mask, prices, self.units), mask


def _between(low: float, high: float, share: float) -> float:
    """Go a share of the way in equal ratios; from nothing, or to no budget at all, in one step."""
    if 0 < low and high < np.inf:
        return float(low * (high / low) ** share)
    return low if share < 0.5 else high
