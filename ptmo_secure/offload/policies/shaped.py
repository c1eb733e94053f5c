"""The router that looks at how a question is made, beside what it is about."""

from collections.abc import Sequence

import numpy as np

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.boosted import BoostedTrees
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.shape import shape


class ShapedModel(ScoreModel):
    """Mean of two scores: `GroupModel`'s by the words, and that of boosted trees on `shape`.

    The trees see no word, so the two err on different questions.
    """

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn from logged answers; a model without any is predicted to score 0."""
        self._words = GroupModel()
        self._words.fit(rows, arms, rng)
        found = {text: shape(text) for text in {row.text for row in rows}}
        self._trees: list[BoostedTrees | None] = []
        for arm in range(arms):
            own = [row for row in rows if row.arm == arm]
            shapes = np.array([found[row.text] for row in own])
            scores = np.array([row.quality for row in own])
            self._trees.append(BoostedTrees(shapes, scores) if own else None)

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        if not texts:
            return np.zeros((0, len(self._trees)))
        words = self._words.predict(texts)
        shapes = np.array([shape(text) for text in texts])
        by_shape = [
            np.zeros(len(texts)) if trees is None else trees.predict(shapes)
            for trees in self._trees
        ]
        return np.asarray((words + np.column_stack(by_shape)) / 2)


class ShapedRouter(Router):
    """Gain by words and shape."""

    name = "shaped"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, ShapedModel())
