"""Folding of characters that look alike or cannot be seen to the plain ones (UTS #39, NFKC)."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from tee_sim.guard.normalise.view import Edit
from tee_sim.guard.words import entries

# Accents are taken off before this is consulted
_LOOK_ALIKES = {odd: entry[0] for entry in entries("look_alikes") for odd in entry[1:]}
_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u30fc\u2043\ufe58", "-")
_DOTS = dict.fromkeys("\u3002\u00b7\u2022\u2219\u22c5\u30fb", ".")
# Letters and signs that are drawn as nothing, beyond the format characters
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5\u034f")
_FOLDS = {**_LOOK_ALIKES, **_DASHES, **_DOTS}
# Everything but ASCII, accented Latin letters, typographic quotes, and the scripts of Korea, China
# and Japan; accents count as a disguise where a word has more of them than any language's
_SUSPECT = re.compile(
    r"[^\x00-\x7f\u00c0-\u0130\u0132-\u017e\u2018-\u201f\u3001\u3003-\u312f\u3131-\u3163"
    r"\u3400-\u9fff\uac00-\ud7a3]"
)
_ANY = re.compile(
    r"[^\x00-\x7f\u2018-\u201f\u3001\u3003-\u312f\u3131-\u3163\u3400-\u9fff\uac00-\ud7a3]"
)
_OVERLOADED = re.compile(r"(?:[a-zA-Z]{0,2}[\u00c0-\u017f]){3}")
_CONJOINING = re.compile(r"[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?")
_STRIPPED_BELOW = "\u0530"  # Latin, Greek and Cyrillic lose their accents


def fold_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that make a text plain: NFKC, no marks, no invisible or look-alike letters.

    Args:
        text: any string.
    """
    if text.isascii():
        return
    if _CONJOINING.search(text):
        yield from _compose(text)
        return
    suspect = _ANY if _OVERLOADED.search(text) else _SUSPECT
    for match in suspect.finditer(text):
        at, char = match.start(), match.group()
        yield at, at + 1, _folded(char)


def _compose(text: str) -> Iterator[Edit]:
    """Yield the edits of a text that also holds Hangul in parts."""
    syllables = {match.start(): match.end() for match in _CONJOINING.finditer(text)}
    for match in _SUSPECT.finditer(text):
        at = match.start()
        if at in syllables:
            end = syllables[at]
            yield at, end, unicodedata.normalize("NFC", text[at:end])
        else:
            yield at, at + 1, _folded(match.group())


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    """Return what a character is read as: nothing, itself, or one or more plain characters."""
    if char in _BLANK:
        return ""
    if char in _FOLDS:
        return _FOLDS[char]
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return "\n" if category != "Zs" else " "
    boxed = _boxed(ord(char))
    if boxed:
        return boxed
    return "".join(map(_plain, unicodedata.normalize("NFKC", char)))


def _plain(char: str) -> str:
    if char.isascii() or char in _FOLDS:
        return _FOLDS.get(char, char)
    if char.isdecimal():
        return str(int(char))
    if char >= _STRIPPED_BELOW and not "\u1e00" <= char <= "\u1fff":
        return char
    base = unicodedata.normalize("NFD", char)[0]
    return _FOLDS.get(base, base)


def _boxed(code: int) -> str:
    """Return the letter in a box, a disc or a flag, which NFKC leaves alone; else nothing."""
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        if first <= code < first + 26:
            return chr(ord("A") + code - first)
    return ""
