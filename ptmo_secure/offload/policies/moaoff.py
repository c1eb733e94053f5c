"""A complexity score for each modality, after MoA-Off (2509.16995): what is complex goes away."""

import re

import numpy as np

from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy, best, local_actions

LONG = 60.0
"""Words that count as fully complex."""


class MoaOff(Policy):
    """The cloud where the text is more complex than the median training question.

    Complexity of a text: mean of words / 60 (at most 1), of the share of different words, and of
    the share of words over 7 letters. Images are uploaded where the reward expects them to pay.
    """

    name = "moa-off"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._median = 0.5

    def fit(self, train: OffloadEnv) -> None:
        """Take the median of the training questions."""
        texts = sorted({row.text for row in train.training_rows()})
        self._median = float(np.median([complexity(text) for text in texts]))

    def choose(self, view: View, mask: Mask) -> int:
        """The best cloud action for a complex text, else local."""
        here, away = mask & local_actions(view), mask & ~local_actions(view)
        wanted = away if complexity(view.text) > self._median else here
        return best(view.rest, wanted if wanted.any() else mask)


def complexity(text: str) -> float:
    """Return how complex a text looks, in [0, 1]."""
    words = re.findall(r"\w+", text.lower())
    if not words:
        return 0.0
    length = min(1.0, len(words) / LONG)
    long_words = sum(len(word) > 7 for word in words) / len(words)
    return (length + len(set(words)) / len(words) + long_words) / 3
