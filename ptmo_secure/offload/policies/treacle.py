"""After TREACLE (NeurIPS 2024): tabular Q-learning over prediction, budget and progress."""

import numpy as np

from ptmo_secure.offload.actions import RISK, USD, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy, best
from ptmo_secure.offload.rollout import run_episode

_EPISODES = 1_500
_RATE, _EXPLORE = 0.1, 0.2
_BINS = 4


class Treacle(Policy):
    """Q(s, a) of what is left of the budgets, what the best model should gain, and the turn.

    TREACLE picks a model and prompt, or asks again, by deep Q-learning on the embedding of a query,
    the consistency of its answers and the budgets left. Here one model answers each action once,
    so the state keeps the budgets and, in place of the embedding, the predicted gain; both in four
    bins. Q-values begin at the reward expected of the turn by itself.

    Args:
        seed: of the exploration.
        episodes: played while it is fitted.
    """

    name = "treacle"

    def __init__(self, seed: int = 0, episodes: int = _EPISODES) -> None:
        super().__init__(seed)
        self._episodes, self._explore = episodes, 0.0
        self._extra: dict[tuple[int, ...], dict[int, float]] = {}
        self._last: tuple[tuple[int, ...], int, float, float] | None = None
        self._limits = np.ones(4)
        self._turn = 0

    def fit(self, train: OffloadEnv) -> None:
        """Play training episodes under each of the environment's budgets."""
        practice = train.practice(int(self.rng.integers(2**31)))
        self._explore = _EXPLORE
        for number in range(self._episodes):
            practice.set_budget(practice.budgets[number % len(practice.budgets)])
            run_episode(practice, self, int(self.rng.integers(practice.episodes)))
        self._explore = 0.0

    def begin(self, truth: object) -> None:
        """Forget the episode before."""
        self._last, self._turn = None, 0

    def choose(self, view: View, mask: Mask) -> int:
        """The highest value, or while it learns now and then any."""
        state = self._state(view)
        expected = view.reward(view.estimate)
        extra = self._extra.get(state, {})
        value = expected + np.array([extra.get(action, 0.0) for action in range(len(mask))])
        action = best(value, mask)
        if self._explore:
            if self.rng.random() < self._explore:
                action = int(self.rng.choice(np.flatnonzero(mask)))
            self._learn(float(np.nan_to_num(value[best(value, mask)])))
            self._last = (state, action, float(np.nan_to_num(expected[action])), 0.0)
        self._turn += 1
        return action

    def observe(self, view: View, action: int, quality: float) -> None:
        """Note what the turn brought."""
        if self._explore and self._last is not None:
            state, _, expected, _ = self._last
            gained = float(view.alpha * quality + view.rest[action])
            self._last = (state, action, expected, gained)

    def settle(self, used: object) -> None:
        """Learn from the last turn: nothing comes after it."""
        if self._explore:
            self._learn(0.0)

    def _learn(self, ahead: float) -> None:
        """Move what the last action brought beyond its expectation towards gain + what is ahead."""
        if self._last is None:
            return
        state, action, expected, gained = self._last
        values = self._extra.setdefault(state, {})
        before = values.get(action, 0.0)
        values[action] = before + _RATE * (gained + ahead - expected - before)

    def _state(self, view: View) -> tuple[int, ...]:
        if self._turn == 0:
            self._limits = np.maximum(np.nan_to_num(view.remaining, nan=0.0), 1e-12)
        shares = np.nan_to_num(view.remaining / self._limits, nan=0.0, posinf=1.0, neginf=0.0)
        gain = float(np.nan_to_num(view.estimate.max() - view.estimate[0]))
        numbers = [*shares[[0, USD, RISK]], gain / 0.4]
        bins = tuple(int(np.clip(_BINS * number, 0, _BINS - 1)) for number in numbers)
        return (min(self._turn, 5), *bins, int(view.sticky))
