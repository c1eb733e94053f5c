r"""Typed placeholders `[PERSON_1]`: how one is written, and how an altered one is read.

    [KIND_N]    the N-th value of that kind in its session
    [KIND_Nb]   another spelling, or a part, of the same value

Read is also what language models make of one: other case, blanks or dashes for `_`, other brackets
or none, escaped marks, full-width letters, and 's inside. What may be one is decided by its shape
alone, never by what a vault holds, so a text is divided in the same way at any time. A shape begins
at its own bracket: nothing before `[PERSON_1]` changes how it is read.

The guard reads answers by this, and the host counts by it what a request shows.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tee_sim.scan_result import ENTITY_KINDS

ESCAPED = "TEXT"  # the kind of what only looks like a placeholder
MAX_NUMBER = 999_999
KINDS = (*ENTITY_KINDS, ESCAPED)
_LETTERS = "bcdefghijklmnopqrtuvwxyz"  # no s, which a plural adds, and no a, the first spelling
_REACH = 64  # beyond the longest shape

_BLANKS = "\t\n\x0b\x0c\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\u200b\u2060\ufeff\xad"
_FOLDED = {
    **{code: code - 32 for code in range(ord("a"), ord("z") + 1)},
    **{code: ord(chr(code - 0xFEE0).upper()) for code in range(0xFF01, 0xFF5F)},
    **{code: ord(" ") for code in (*map(ord, _BLANKS), *range(0x2000, 0x200B))},
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), ord("-")),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc`"), ord("'")),
    **dict.fromkeys(map(ord, "\u3010\u3014\u300c\u300e\u27e6"), ord("[")),
    **dict.fromkeys(map(ord, "\u3011\u3015\u300d\u300f\u27e7"), ord("]")),
    **dict.fromkeys(map(ord, "\u3008\u300a\u27e8\xab\u2039"), ord("<")),
    **dict.fromkeys(map(ord, "\u3009\u300b\u27e9\xbb\u203a"), ord(">")),
    **{zero + n: ord("0") + n for zero in (0x660, 0x6F0, 0x966) for n in range(10)},
}

_GAP = r"[ _\-\\:#]"
_NAMES = "|".join(
    name.replace("_", _GAP + "{0,3}") for name in sorted(KINDS, key=len, reverse=True)
)
_NUMBER = r"0{{0,3}}(?P<{n}>[1-9][0-9]{{0,5}})(?P<{v}>[B-RT-Z]{{0,3}})"
_OPEN = (
    r"(?P<e>\\)?(?:(?P<cc>\{\{)|(?P<c>\{)|(?P<aa><<)|(?P<a><)|(?P<rr>\(\()|(?P<r>\()"
    r"|(?P<h>&LT;)|\[)"
)
_CLOSE = r"(?(e)\\)(?(cc)\}\}|(?(c)\}|(?(aa)>>|(?(a)>|(?(rr)\)\)|(?(r)\)|(?(h)&GT;|\])))))))"
_SHAPE = re.compile(
    rf"{_OPEN}{_GAP}{{0,2}}(?P<kind>{_NAMES}){_GAP}{{0,3}}{_NUMBER.format(n='n', v='v')}"
    rf"(?:{_GAP}{{0,2}}(?P<s>'?S))?{_GAP}{{0,2}}{_CLOSE}"
    rf"|(?<![A-Z0-9_])(?P<bare>{_NAMES})(?P<gap>{_GAP}{{1,3}}){_NUMBER.format(n='bn', v='bv')}"
    rf"(?=S?(?![A-Z0-9_]))"
)
_SQUEEZE = re.compile(_GAP)
_KIND = {name.replace("_", ""): name for name in KINDS}
# What the beginning of a shape looks like at the end of a text
_BEGUN = re.compile(
    r"(?P<open>\\?(?:\{{1,2}|<{1,2}|\({1,2}|\[|&LT;))?(?P<name>[A-Z _\-\\:#]{0,40})"
    r"(?:(?P<number>[0-9]{1,9})[A-Z]{0,4}(?P<rest>[ _\-\\:#]{0,2}(?:'?S?)[ _\-\\:#]{0,3}"
    r"(?:\}|>|\)|&G?T?)?)?)?\Z"
)
_OPENS = re.compile(r"[\\{<(\[&]|(?<![A-Z0-9_])[A-Z]")
_OPEN_BEGUN = re.compile(r"\\|&L?T?")


class Token(NamedTuple):
    """The name of a value: kind, number, and which spelling of it (0: the first)."""

    kind: str
    number: int
    spelling: int = 0

    def __str__(self) -> str:
        return f"[{self.kind}_{self.number}{_letters(self.spelling)}]"


class Shape(NamedTuple):
    """A placeholder as it stands in a text, in code points; `tail` is an 's from inside it."""

    start: int
    end: int
    token: Token
    tail: str = ""


def fold(text: str) -> str:
    """Return a text of the same length in which altered placeholders are alike."""
    return text.translate(_FOLDED)


def kinds_in(text: str) -> list[str]:
    """Return the kind of each placeholder in a text, in order."""
    return [shape.token.kind for shape in shapes(text, fold(text))]


def names_in(text: str) -> frozenset[str]:
    """Return the placeholders in a text that are written just as the guard writes them."""
    found = shapes(text, fold(text))
    return frozenset(str(s.token) for s in found if text[s.start : s.end] == str(s.token))


def shapes(text: str, folded: str, start: int = 0) -> Iterator[Shape]:
    """Yield what has the shape of a placeholder, in order, without overlaps.

    Without brackets and `_` it must stand in capitals: "PERSON 1", not "person 1".

    Args:
        text: any string.
        folded: of `fold`.
        start: where to begin; the character before it is looked at.
    """
    for match in _SHAPE.finditer(folded, start):
        bare = match["bare"]
        if bare is None:
            kind, number, letters = match["kind"], match["n"], match["v"]
        else:
            low, high = match.span("bare")
            if "_" not in match["gap"] and text[low:high].upper() != text[low:high]:
                continue
            kind, number, letters = bare, match["bn"], match["bv"]
        tail = text[slice(*match.span("s"))] if match["s"] else ""
        token = Token(_KIND[_SQUEEZE.sub("", kind)], int(number), _spelling(letters))
        yield Shape(match.start(), match.end(), token, tail)


def begun(folded: str, start: int, found: "list[Shape]") -> int:
    """Return where the part of a text begins that more text may make a placeholder.

    Args:
        folded: of `fold`.
        start: nothing before it counts.
        found: of `shapes`; one that ends with a bracket is complete.

    Returns:
        An index, at most 64 before the end; the end itself when nothing has begun.
    """
    size = len(folded)
    at = max(start, size - _REACH)
    complete = [s for s in found if s.end > at and folded[s.end - 1] in "]})>;"]
    for match in _OPENS.finditer(folded, at):
        low = match.start()
        if not any(s.start <= low < s.end for s in complete) and _may_begin(folded, low):
            return low
    return size


def _may_begin(folded: str, low: int) -> bool:
    if _OPEN_BEGUN.fullmatch(folded, low):
        return True
    match = _BEGUN.match(folded, low)
    if match is None or (match["open"] is None and match["rest"]):
        return False
    name = _SQUEEZE.sub("", match["name"])
    if match["number"]:
        return name in _KIND
    return any(kind.startswith(name) for kind in _KIND)


def _letters(spelling: int) -> str:
    letters = ""
    while spelling:
        spelling, digit = divmod(spelling - 1, len(_LETTERS))
        letters = _LETTERS[digit] + letters
    return letters


def _spelling(letters: str) -> int:
    spelling = 0
    for letter in letters.lower():
        spelling = spelling * len(_LETTERS) + _LETTERS.index(letter) + 1
    return spelling


MAX_SPELLINGS = _spelling("zzz")
