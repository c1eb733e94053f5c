"""TF-IDF of hashed words and letters: a fixed size, no vocabulary to ship, NumPy alone to ask."""

import re
import zlib
from collections.abc import Sequence
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
    return (
        np.array([zlib.crc32(term.encode()) % SLOTS for term in [*words, *pairs]], dtype=np.int64),
        SLOTS + _runs(lowered.split()) % SLOTS,
    )


def _runs(words: Sequence[str]) -> "NDArray[np.int64]":
    """Return the CRC-32 of each run of 2 to 5 letters in " word ", for all words at once.

    A word too short for a run is one itself, so " a " counts three times, for 3, 4 and 5 letters.
    The five letters from each place on are read once, all places side by side; after two, three
    and four of them the values are those of the shorter runs.
    """
    padded = "".join(f" {word} " for word in words)
    letters, sizes = _letters(padded + " " * (RUNS[-1] - 1))
    lengths = np.array([len(word) + 2 for word in words], dtype=np.int64)
    whole = np.repeat(lengths, lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    room = ends - np.arange(len(padded))  # letters from here to the end of the padded word
    value = np.full(len(padded), 0xFFFFFFFF, dtype=np.uint32)
    found = []
    for length in range(1, RUNS[-1] + 1):
        here = slice(length - 1, length - 1 + len(padded))
        for byte, column in enumerate(letters):
            after = np.take(_CRC, value.astype(np.uint8) ^ column[here]) ^ (value >> 8)
            value = after if byte == 0 else np.where(byte < sizes[here], after, value)
        if length in RUNS:
            found.append(value[room >= length])
        short = value[(room == length) & (whole == length)]
        found += [short] * sum(run > length for run in RUNS)
    return (~np.concatenate(found)).astype(np.int64)


def _letters(text: str) -> tuple["NDArray[np.uint8]", "NDArray[np.int64]"]:
    """Return the bytes of each letter in UTF-8, [most bytes of one, letters], and their number."""
    stream = np.frombuffer(text.encode(), dtype=np.uint8)
    first = np.flatnonzero((stream & 0xC0) != 0x80)  # any other byte goes on with a letter
    sizes = np.diff(np.append(first, len(stream)))
    places = first + np.arange(sizes.max())[:, None]
    return np.take(stream, places, mode="clip"), sizes


def _crc_table() -> "NDArray[np.uint32]":
    """CRC-32 of each byte, as in zlib (polynomial 0xEDB88320, lowest bit first), [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0xEDB88320), table >> 1)
    return table


_CRC = _crc_table()
