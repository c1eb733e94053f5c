"""The router with nearest neighbours: what did the models score on questions of similar words?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.quality import Words

NEIGHBOURS = 30
_PRIOR = 1.0  # weight of the model's mean beside its neighbours, in whole cosines


class KnnModel(ScoreModel):
    """Mean score over the 30 nearest questions by cosine, weighted by it; shrunk to the mean."""

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Keep the questions of each model, and their scores."""
        self._words = Words([row.text for row in rows])
        self._by_arm: list[tuple[Any, Floats]] = []
        for arm in range(arms):
            own = [row for row in rows if row.arm == arm]
            vectors = self._words.of([row.text for row in own]) if own else None
            self._by_arm.append((vectors, np.array([row.quality for row in own])))

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        asked: Any = self._words.of(texts)
        predicted = np.zeros((len(texts), len(self._by_arm)))
        for arm, (vectors, scores) in enumerate(self._by_arm):
            if vectors is not None:
                for start in range(0, len(texts), 256):
                    part = asked[start : start + 256]
                    likeness = np.asarray((part @ vectors.T).todense())
                    predicted[start : start + 256, arm] = _shrunk(likeness, scores)
        return predicted


def _shrunk(likeness: Floats, scores: Floats) -> Floats:
    """Weighted mean over the nearest, [texts]."""
    count = min(NEIGHBOURS, likeness.shape[1])
    near = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    weights = np.take_along_axis(likeness, near, axis=1)
    total = (weights * scores[near]).sum(axis=1) + _PRIOR * scores.mean()
    return np.asarray(total / (weights.sum(axis=1) + _PRIOR))


class KnnRouter(Router):
    """Gain by nearest neighbours."""

    name = "knn"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, KnnModel())
