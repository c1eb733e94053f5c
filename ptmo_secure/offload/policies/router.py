"""What all routers share: they predict each model's score by the text, and pay where it pays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats, Kind, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv, TrainingRow
from ptmo_secure.offload.policies.base import Policy, best, local_actions
from ptmo_secure.offload.rollout import mean_reward

_QUANTILES = np.linspace(0.0, 0.9, 10)
_TUNED_ON = 60  # training episodes


class ScoreModel(ABC):
    """Predicts what each model scores on a question."""

    @abstractmethod
    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn from logged answers."""

    @abstractmethod
    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""


class Router(Policy):
    """The cloud where its predicted gain is above a threshold, which is tuned to the budgets.

    The threshold is that quantile of the gains on training questions with which the training
    episodes earn most under the same budgets. There, each question is scored by a model that has
    not seen it.

    Args:
        seed: of the halves of the training questions.
        model: predicts the scores.
    """

    def __init__(self, seed: int, model: ScoreModel) -> None:
        super().__init__(seed)
        self._model = model
        self._known: dict[str, Floats] = {}
        self._unseen: dict[str, Floats] = {}
        self._threshold = 0.0

    def fit(self, train: OffloadEnv) -> None:
        """Learn scores: from one half for the other, then from all."""
        rows = train.training_rows()
        if not rows:
            raise InputError("the training split holds no logged answers")
        arms = 1 + max(row.arm for row in rows)
        texts = sorted({row.text for row in rows})
        order = self.rng.permutation(len(texts))
        for half in (order[::2], order[1::2]):
            kept = {texts[number] for number in half}
            self._model.fit([row for row in rows if row.text not in kept], arms, self.rng)
            asked = sorted(kept)
            self._unseen |= dict(zip(asked, self._model.predict(asked), strict=True))
        self._model.fit(rows, arms, self.rng)

    def tune(self, train: OffloadEnv) -> None:
        """Choose the threshold for the budgets that the training environment has now."""
        gains = np.array([_gain(scores) for scores in self._unseen.values()])
        learnt, self._known = self._known, dict(self._unseen)
        earned = {}
        for quantile in _QUANTILES:
            self._threshold = float(np.quantile(gains, quantile))
            earned[self._threshold] = mean_reward(train, self, _TUNED_ON)
        self._known = learnt
        self._threshold = max(earned, key=lambda threshold: (earned[threshold], threshold))

    def choose(self, view: View, mask: Mask) -> int:
        """The best cloud action if the predicted gain is worth it, else local."""
        scores = self.scores(view.text)
        reward = view.reward(view.quality(scores))
        here, away = mask & local_actions(view), mask & ~local_actions(view)
        if not here.any() or not away.any():
            return best(reward, mask)
        return best(reward, away if _gain(scores) >= self._threshold else here)

    def scores(self, text: str) -> Floats:
        """Predicted score of each model, [arms]; asked twice, computed once."""
        if text not in self._known:
            self._known[text] = self._model.predict([text])[0]
        return np.clip(self._known[text], 0.0, None)


def _gain(scores: Floats) -> float:
    return float(scores[1:].max() - scores[0])


def by_kind(view: View, mask: Mask, kind: Kind) -> int | None:
    """Return the first allowed action of a kind; None if there is none."""
    for number, action in enumerate(view.actions):
        if action.kind is kind and mask[number]:
            return number
    return None
