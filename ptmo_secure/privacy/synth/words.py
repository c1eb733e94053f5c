"""The word lists of `data/words.txt`, split so that held-out texts use words of their own."""

import hashlib
from functools import cache
from pathlib import Path

from ptmo_secure.privacy.synth.example import Split

DATA = Path(__file__).parent / "data"
_MIN_SPLIT = 15
_HELD_OUT_OF = 4  # one word in four is held out


@cache
def word_list(name: str, split: Split) -> tuple[str, ...]:
    """Words of a list for one split; lists under 15 words, and the weekdays and months, are whole.

    Raises:
        KeyError: there is no such list.
    """
    words = _lists()[name]
    if len(words) < _MIN_SPLIT:
        return words
    shuffled = sorted(words, key=_digest)
    count = len(words) // _HELD_OUT_OF
    return tuple(shuffled[:count] if split == "heldout" else shuffled[count:])


def held_out(text: str, one_in: int) -> bool:
    """Whether a text belongs to the held-out side: by its hash, so that additions move nothing."""
    return _digest(text)[0] % one_in == 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    name, lines = "", (DATA / "words.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("## "):
            name = line[3:].strip()
            lists[name] = ()
        elif name and line.strip():
            lists[name] += tuple(word.strip() for word in line.split(";") if word.strip())
    return lists
