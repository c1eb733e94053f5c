"""Whether the device's own answer is good enough, or a cloud is worth asking.

As in FrugalGPT (Chen, Zaharia and Zou, 2023): the cheap model answers first, its answer is scored,
and the dear one is asked only where the score is low. Scores here need no second model: the mean
log-probability of the answer's tokens, and how much answers that were drawn anew agree with it
(self-consistency; Wang et al., 2023).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ptmo_secure.errors import InputError

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Cascade:
    """When an answer is doubted.

    Args:
        threshold: mean ln p per token below which it is, at most 0.
        samples: answers drawn anew, 0 to 8; none costs nothing.
        agreement: mean share of common words with these below which it is doubted, in [0, 1].
        temperature: they are drawn at, above 0.
    """

    threshold: float = -1.0
    samples: int = 0
    agreement: float = 0.3
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold <= 0):
            raise InputError(f"cascade threshold {self.threshold}: a mean ln p is at most 0")
        if not 0 <= self.samples <= 8:
            raise InputError(f"cascade samples {self.samples}: 0 to 8")
        if not 0 <= self.agreement <= 1:
            raise InputError(f"cascade agreement {self.agreement}: a share in [0, 1]")
        if not 0 < self.temperature <= 2:
            raise InputError(f"cascade temperature {self.temperature}: above 0, at most 2")

    def doubts(self, mean_logprob: float | None, answer: str, others: Sequence[str] = ()) -> bool:
        """Whether an answer is worth asking a cloud.

        Args:
            mean_logprob: of its tokens; None, where the engine has none, or NaN is doubted.
            answer: its text; an empty one is doubted.
            others: answers drawn anew.
        """
        if not answer.strip() or mean_logprob is None or not mean_logprob >= self.threshold:
            return True
        return bool(others) and consistency(answer, others) < self.agreement


def consistency(answer: str, others: Sequence[str]) -> float:
    """Return the mean share of words that an answer has in common with others (Jaccard)."""
    own = _words(answer)
    shares = [len(own & other) / max(1, len(own | other)) for other in map(_words, others)]
    return sum(shares) / len(shares)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))
