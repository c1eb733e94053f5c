"""A cascade after FrugalGPT (2305.05176): ask the cheap model, and go on where it looks poor."""

import numpy as np

from ptmo_secure.offload.actions import Kind, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import best, local_actions
from ptmo_secure.offload.policies.router import Router, by_kind
from ptmo_secure.offload.policies.tfidf import TfidfModel

SURE, HOPELESS = 0.75, 0.1


class Cascade(Router):
    """Local where its predicted score is in the top quarter, the cloud at once in the last tenth.

    Between the two the environment's escalation runs: a local answer first, and the cloud's if a
    self-check doubts it. Where an environment has none, the middle stays local.
    """

    name = "cascade"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, TfidfModel())
        self._sure, self._hopeless = 1.0, 0.0

    def fit(self, train: OffloadEnv) -> None:
        """Learn scores, and where the two ends begin."""
        super().fit(train)
        texts = sorted({row.text for row in train.training_rows() if row.arm == 0})
        local = self._model.predict(texts)[:, 0]
        self._hopeless, self._sure = np.quantile(local, [HOPELESS, SURE])

    def choose(self, view: View, mask: Mask) -> int:
        """By how sure the local model's score is."""
        scores = self.scores(view.text)
        reward = view.reward(view.quality(scores))
        here, away = mask & local_actions(view), mask & ~local_actions(view)
        if scores[0] < self._hopeless and away.any():
            return best(reward, away)
        escalate = by_kind(view, mask, Kind.ESCALATE)
        if scores[0] < self._sure and escalate is not None:
            return escalate
        return best(reward, here if here.any() else mask)
