"""The router with matrix factorisation, after RouteLLM: a question and a model as two vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.quality import Words

DIMENSIONS, RANK = 64, 8
_STEPS, _RATE, _DECAY = 300, 0.02, 1e-4


class MatrixModel(ScoreModel):
    """score(q, m) = sigmoid((A e_q) . v_m + b_m), trained on squared error with Adam.

    e_q are the 64 leading singular directions of TF-IDF, A is [64, 8] and v_m a vector for each
    model. RouteLLM (2406.18665, section 4.2) takes e_q from an embedding API instead.
    """

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn A, v and b from logged answers."""
        from sklearn.decomposition import TruncatedSVD

        self._words = Words([row.text for row in rows])
        sparse = self._words.of([row.text for row in rows])
        size = max(1, min(DIMENSIONS, min(sparse.shape) - 1))
        svd: Any = TruncatedSVD(  # type: ignore[no-untyped-call]
            size, random_state=int(rng.integers(2**31))
        )
        embedded = svd.fit_transform(sparse)
        scale = float(np.sqrt((embedded**2).sum(axis=1).mean())) or 1.0
        scores = np.array([row.quality for row in rows])
        self._top = max(1.0, float(scores.max()))
        arm = np.array([row.arm for row in rows])
        parameters = [
            rng.normal(0.0, 0.3, (size, RANK)),
            rng.normal(0.0, 0.3, (arms, RANK)),
            np.zeros(arms),
        ]
        mix, models, self._bias = _adam(parameters, embedded / scale, arm, scores / self._top)
        self._slopes = svd.components_.T @ mix @ models.T / scale  # [words, arms]

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        score = self._words.of(texts) @ self._slopes + self._bias
        return np.asarray(self._top / (1 + np.exp(-score)))


def _adam(
    parameters: list[Floats], embedded: Floats, arm: "np.ndarray[Any, Any]", target: Floats
) -> list[Floats]:
    first = [np.zeros_like(value) for value in parameters]
    second = [np.zeros_like(value) for value in parameters]
    for step in range(1, _STEPS + 1):
        for place, slope in enumerate(_gradient(parameters, embedded, arm, target)):
            first[place] = 0.9 * first[place] + 0.1 * slope
            second[place] = 0.999 * second[place] + 0.001 * slope**2
            size = np.sqrt(second[place] / (1 - 0.999**step)) + 1e-8
            parameters[place] = parameters[place] - _RATE * first[place] / (1 - 0.9**step) / size
    return parameters


def _gradient(
    parameters: list[Floats], embedded: Floats, arm: "np.ndarray[Any, Any]", target: Floats
) -> list[Floats]:
    """Slopes of the mean squared error, and of the penalty on A and v."""
    mix, models, bias = parameters
    hidden = embedded @ mix
    score = 1 / (1 + np.exp(-((hidden * models[arm]).sum(axis=1) + bias[arm])))
    slope = 2 * (score - target) * score * (1 - score) / len(target)
    of_models, of_bias = np.zeros_like(models), np.zeros_like(bias)
    np.add.at(of_models, arm, slope[:, None] * hidden)
    np.add.at(of_bias, arm, slope)
    of_mix = embedded.T @ (slope[:, None] * models[arm])
    return [of_mix + _DECAY * mix, of_models + _DECAY * models, of_bias]


class MatrixRouter(Router):
    """Gain by matrix factorisation."""

    name = "matrix"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, MatrixModel())
