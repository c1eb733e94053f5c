"""Slots of words and letters: all places at once, as the plain definition has them one by one."""

import random
import zlib

import numpy as np
import pytest

from ptmo_secure.offload.hashed import RUNS, SLOTS, HashedWords

ALPHABET = "aAbc de1 \t.é한국어 😀ßİ \u00a0"


def plainly(text):
    """Slots and weights of the runs inside each " word ", one run at a time; every idf is 1."""
    slots = []
    for word in text.lower().split():
        padded = f" {word} "
        for length in RUNS:
            for start in range(max(1, len(padded) - length + 1)):
                run = padded[start : start + length]
                slots.append(SLOTS + zlib.crc32(run.encode()) % SLOTS)
    places, counts = np.unique(np.array(slots, dtype=np.int64), return_counts=True)
    weights = 1 + np.log(counts)
    return places, weights / np.sqrt((weights**2).sum())


def check(text):
    places, weights = HashedWords(np.ones(2 * SLOTS)).vector(text)
    expected = plainly(text)
    assert np.array_equal(places[places >= SLOTS], expected[0]), text
    assert np.array_equal(weights[places >= SLOTS], expected[1]), text


@pytest.mark.parametrize(
    "text", ["", " ", "a", "ab", "abc", "a a a", "é", "😀", "a 한국어 b", "İİ"]
)
def test_runs_of_short_and_foreign_words_are_those_of_the_definition(text):
    check(text)


def test_runs_of_random_texts_are_those_of_the_definition():
    draws = random.Random(7)
    for _ in range(1500):
        check("".join(draws.choice(ALPHABET) for _ in range(draws.randint(1, 60))))


def test_what_stands_beyond_two_thousand_letters_changes_nothing():
    text = "word " * 400
    words = HashedWords(np.ones(2 * SLOTS))
    for whole, cut in zip(words.vector(text + "more"), words.vector(text), strict=True):
        assert np.array_equal(whole, cut)
