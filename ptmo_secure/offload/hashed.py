"""TF-IDF of hashed words and letters: a fixed size, no vocabulary to ship, NumPy alone to ask."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import Floats

SLOTS = 1 << 15
"""Of the words and word pairs; as many again for runs of letters."""

RUNS = (2, 3, 4, 5)
_MAX_CHARS = 2_000  # of a text; what comes later changes little, and long texts must not take long
_WORD = re.compile(r"\w\w+")


class HashedWords:
    """Sublinear TF-IDF in 2 x 32,768 slots: words with word pairs, and runs of 2 to 5 letters.

    Runs stay inside a word with a blank on both sides. Each half has length 1. The slot of a term
    is its CRC-32, so that a vector can be made again from nothing but the weights `idf`.

    Args:
        idf: [2 * SLOTS].
    """

    def __init__(self, idf: Floats) -> None:
        self.idf = np.asarray(idf, dtype=np.float64)

    @classmethod
    def fitted(cls, texts: Sequence[str]) -> "HashedWords":
        """Count in how many of the texts each slot occurs; a text that comes twice counts once."""
        unique = sorted(set(texts))
        seen = np.zeros(2 * SLOTS)
        for text in unique:
            for slots in _terms(text):
                seen[np.unique(slots)] += 1
        return cls(np.log((1 + len(unique)) / (1 + seen)) + 1)

    def vector(self, text: str) -> tuple["NDArray[np.int64]", Floats]:
        """Return the slots of a text and their weights; both empty for a text without words."""
        places, weights = [], []
        for slots in _terms(text):
            if len(slots):
                place, count = np.unique(slots, return_counts=True)
                weight = (1 + np.log(count)) * self.idf[place]
                places.append(place)
                weights.append(weight / np.sqrt((weight**2).sum()))
        if not places:
            return np.zeros(0, np.int64), np.zeros(0)
        return np.concatenate(places), np.concatenate(weights)

    def of(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts, a sparse matrix [texts, 2 * SLOTS]."""
        from scipy.sparse import csr_matrix  # type: ignore[attr-defined,unused-ignore]

        found = [self.vector(text) for text in texts]
        starts = np.concatenate([[0], np.cumsum([len(places) for places, _ in found])])
        places = np.concatenate([places for places, _ in found]) if found else np.zeros(0)
        weights = np.concatenate([weights for _, weights in found]) if found else np.zeros(0)
        made: Any = csr_matrix
        return made((weights, places, starts), shape=(len(texts), 2 * SLOTS))


def _terms(text: str) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """Slots of the words and pairs of a text, and of its runs of letters; with repetitions."""
    lowered = text[:_MAX_CHARS].lower()
    words = _WORD.findall(lowered)
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    counted = Counter(lowered.split())
    runs = [np.tile(_runs(word), times) for word, times in counted.items()]
    return (
        np.array([zlib.crc32(term.encode()) % SLOTS for term in [*words, *pairs]], dtype=np.int64),
        np.concatenate(runs) if runs else np.zeros(0, np.int64),
    )


@lru_cache(maxsize=200_000)
def _runs(word: str) -> "NDArray[np.int64]":
    padded = f" {word} "
    runs = [
        padded[start : start + length]
        for length in RUNS
        for start in range(max(1, len(padded) - length + 1))
    ]
    return np.array([SLOTS + zlib.crc32(run.encode()) % SLOTS for run in runs], dtype=np.int64)
