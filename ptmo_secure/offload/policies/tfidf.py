"""The router with ridge regression on TF-IDF: what every learned router has to beat."""

from collections.abc import Sequence

import numpy as np

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.quality import Words, ridge


class TfidfModel(ScoreModel):
    """One ridge regression for each model, on the questions that it answered."""

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn from logged answers; a model without any is predicted to score 0."""
        self._words = Words([row.text for row in rows])
        vectors = self._words.of([row.text for row in rows])
        arm_of = np.array([row.arm for row in rows])
        scores = np.array([row.quality for row in rows])
        self._by_arm: list[tuple[Floats, float]] = []
        for arm in range(arms):
            own = np.flatnonzero(arm_of == arm)
            self._by_arm.append(ridge(vectors[own], scores[own]) if len(own) else (np.zeros(1), 0))

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        vectors = self._words.of(texts)
        scores = [
            vectors @ slope + level if len(slope) > 1 else np.zeros(len(texts))
            for slope, level in self._by_arm
        ]
        return np.column_stack(scores)


class TfidfRouter(Router):
    """Gain by ridge regression on TF-IDF."""

    name = "tfidf"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, TfidfModel())
