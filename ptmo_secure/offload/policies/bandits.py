"""Bandits that learn while they run: CS-UCB without context, LinUCB and Thompson sampling with."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from ptmo_secure.offload.actions import Floats, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy, best
from ptmo_secure.offload.rollout import run_episode

_EPISODES = 200


class Bandit(Policy):
    """A policy that plays practice episodes through the gate before it is measured."""

    def fit(self, train: OffloadEnv) -> None:
        """Play practice episodes under each of the environment's budgets in turn."""
        practice = train.practice(int(self.rng.integers(2**31)))
        for number in range(_EPISODES):
            practice.set_budget(practice.budgets[number % len(practice.budgets)])
            run_episode(practice, self, int(self.rng.integers(practice.episodes)))


class ConstraintUcb(Bandit):
    """PerLLM's CS-UCB (2405.14636): upper confidence bounds over the actions that keep the limits.

    argmax over allowed a of mean reward(a) + c sqrt(ln t / n_a); an action not tried comes first.
    """

    name = "cs-ucb"
    WIDTH: ClassVar[float] = 0.5

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._count, self._sum = np.zeros(0), np.zeros(0)

    def choose(self, view: View, mask: Mask) -> int:
        """The highest bound."""
        if len(self._count) != len(mask):
            self._count, self._sum = np.zeros(len(mask)), np.zeros(len(mask))
        tried = np.maximum(self._count, 1)
        width = self.WIDTH * np.sqrt(np.log(1 + self._count.sum()) / tried)
        return best(np.where(self._count > 0, self._sum / tried + width, np.inf), mask)

    def observe(self, view: View, action: int, quality: float) -> None:
        """Count what the action brought."""
        self._count[action] += 1
        self._sum[action] += view.alpha * quality + view.rest[action]


class _Linear(Bandit):
    """Ridge regression of each action's quality on the view's features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._inverse: Floats = np.zeros((0, 0, 0))
        self._moment: Floats = np.zeros((0, 0))

    def choose(self, view: View, mask: Mask) -> int:
        """The best of the optimistic rewards."""
        size = len(view.features)
        if self._moment.shape != (len(mask), size):
            self._inverse = np.tile(np.eye(size), (len(mask), 1, 1))
            self._moment = np.zeros((len(mask), size))
        return best(view.reward(self._optimistic(view.features)), mask)

    def observe(self, view: View, action: int, quality: float) -> None:
        """Update the action's regression by one observation (Sherman and Morrison)."""
        x = view.features
        spread = self._inverse[action] @ x
        self._inverse[action] -= np.outer(spread, spread) / (1 + x @ spread)
        self._moment[action] += quality * x

    def _means(self) -> Floats:
        """Coefficients of each action, [actions, features]."""
        return np.asarray(np.einsum("aij,aj->ai", self._inverse, self._moment))

    @abstractmethod
    def _optimistic(self, features: Floats) -> Floats:
        """Quality of each action, as hopeful as the data allow, [actions]."""


class LinUcb(_Linear):
    """LinUCB (1003.0146): theta_a . x + c sqrt(x' A_a^-1 x)."""

    name = "linucb"
    WIDTH: ClassVar[float] = 0.3

    def _optimistic(self, features: Floats) -> Floats:
        width = np.sqrt(np.einsum("i,aij,j->a", features, self._inverse, features))
        return np.asarray(self._means() @ features + self.WIDTH * width)


class Thompson(_Linear):
    """Linear Thompson sampling (1209.3352): theta_a drawn from N(mean_a, s^2 A_a^-1)."""

    name = "thompson"
    SPREAD: ClassVar[float] = 0.3

    def _optimistic(self, features: Floats) -> Floats:
        spread = np.sqrt(np.einsum("i,aij,j->a", features, self._inverse, features))
        noise = self.rng.standard_normal(len(spread))
        return np.asarray(self._means() @ features + self.SPREAD * spread * noise)
