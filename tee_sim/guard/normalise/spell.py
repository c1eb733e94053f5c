"""Undoing of ways to write a value out: digit words, "at" and "dot", s p a c e s, leet."""

import re
from collections.abc import Iterator
from itertools import pairwise

from tee_sim.guard.normalise.view import Edit
from tee_sim.guard.rules import load, patterns, search
from tee_sim.guard.words import entries, pairs

_RULES = load("spelling")
_SPOKEN, _SPOKEN_TOKEN, _HANGUL, _HANGUL_TOKEN, _AT, _DOT, _SPACED = patterns(
    _RULES, "spoken spoken_token hangul hangul_token at dot spaced"
)
_ODD, _SEPARATED, _PLAIN_NUMBER, _DISGUISED_DIGITS, _LOOSE_LETTERS, _LEET_WORD = patterns(
    _RULES, "odd separated plain_number disguised_digits loose_letters leet_word"
)
_BACKWARD_NAME, _STITCHED_NAME, _CUT_NAME, _WORD = patterns(
    _RULES, "backward_name stitched_name cut_name word"
)
_ENGLISH, _FOREIGN = entries("number_words"), entries("foreign_digits")
_TENS = frozenset(_ENGLISH[20:28])
_NUMBERS = {
    **{word: str(i % 10) for i, word in enumerate(_FOREIGN)},
    **{word: str(i) for i, word in enumerate(_ENGLISH[:20])},
    **{word: str(10 * i) for i, word in enumerate(_ENGLISH[20:28], 2)},
    **dict.fromkeys(_ENGLISH[28:33], "0"),
}
_LETTERS, _LEAST_WORDS = re.compile("[^\\W\\d_]+"), 3
_REPEATS = {"double": 2, "triple": 3, "treble": 3}
_HANGUL_DIGITS = pairs("korean_digits")
# Groups of digits that identifiers are written in
_SHAPES = {tuple(map(int, shape)) for shape in "324 334 344 244 234 67 4444 465 1334".split()}
_LOOK_DIGITS = str.maketrans("OoQIl|!ZzSsBGq", "00011112255869")
_LEET = str.maketrans("01345789$!|+@", "oieastbgsiita")
_GIVEN_NAMES = frozenset(entries("given_names"))
_AFTER_NAMES = frozenset((*entries("after_names"), *entries("no_names")))


def junk_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that take out what was put between characters: "(5)(3)(6)"."""
    for match in search(_RULES["junk"], text):
        yield match.start(), match.end(), match["kept"] or match["last"] or ""


def spoken_digit_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that write spelled-out numbers as digits, English and Korean.

    "five three six, two two, one two three four" is 536-22-1234; "double five" is 55, "twenty-two"
    22, "three oh five" 305. Digits that are written out hide on purpose, so a run with the length
    of an identifier gets its usual separators.
    """
    found = []
    said = _LETTERS.findall(text.lower())
    if sum(word in _NUMBERS or word in _REPEATS for word in said) >= _LEAST_WORDS:
        found = [
            (match.start(), match.end(), punctuated(digits))
            for match in _SPOKEN.finditer(text)
            if len(digits := _spoken_digits(match.group())) >= 4
        ]
    for match in _HANGUL.finditer(text):
        run = match.group().rstrip(" ,.-\n")
        digits = "".join(_HANGUL_DIGITS.get(token, token) for token in _HANGUL_TOKEN.findall(run))
        if not run.isascii():
            found.append((match.start(), match.start() + len(run), punctuated(digits)))
    yield from sorted(found)


def _spoken_digits(run: str) -> str:
    """Return the digits that number words say; nothing for a run without words, or for counting."""
    digits: list[str] = []
    words = repeat = 0
    previous = ""
    for match in _SPOKEN_TOKEN.finditer(run):
        word = match.group().lower()
        if word in _REPEATS:
            repeat, words = _REPEATS[word], words + 1
        elif word == "hundred":
            digits += ["00"] if digits else []
        else:
            value = _NUMBERS.get(word, word)
            words += word in _NUMBERS
            if previous in _TENS and len(value) == 1 and value != "0" and not repeat:
                digits[-1] = digits[-1][0] + value
            else:
                digits.append(value * (repeat or 1))
            repeat = 0
        previous = word
    joined = "".join(digits)
    counting = joined.startswith(("1234567", "0123456", "10987", "98765432"))
    return "" if words < _LEAST_WORDS or counting else joined


def punctuated(digits: str) -> str:
    """Write digits with the separators that their number of places suggests."""
    cuts = {9: (3, 5), 10: (3, 6), 13: (6,)}.get(len(digits), ())
    if len(digits) == 11:
        cuts = (3, 7) if digits[0] == "0" else (1, 4, 7)
    edges = [0, *cuts, len(digits)]
    return "-".join(digits[a:b] for a, b in pairwise(edges))


def address_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that write "john (at) mail dot com" and addresses cut by newlines plainly."""
    found: list[Edit] = []
    for match in search(_RULES["address"], text):
        plain = _DOT.sub(".", _AT.sub("@", match.group(), count=1))
        found.append((match.start(), match.end(), plain))
    for match in search(_RULES["cut_address"], text):
        cut = match.group().find("\n")
        if cut >= 0:
            found.append((match.start() + cut, match.start() + cut + 1, ""))
    yield from sorted(found)


def spacing_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that close the gaps in "j o h n" and "5-3-6-2-2"; wider gaps part words."""
    found: list[Edit] = []
    for match in _SPACED.finditer(text):
        gaps = list(re.finditer(r"\s+", match.group()))
        narrow = any(len(gap.group()) == 1 for gap in gaps)
        for gap in gaps:
            kept = " " if narrow and len(gap.group()) > 1 else ""
            found.append((match.start() + gap.start(), match.start() + gap.end(), kept))
    for match in search(_RULES["stitched"], text):
        stitch = len(match["stitch"])
        for at in range(match.start() + 1, match.end() - 1, stitch + 1):
            found.append((at, at + stitch, ""))
    yield from sorted(found)


def separator_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that put digits with odd separators ("536/22/1234") into their usual form."""
    for match in _SEPARATED.finditer(text):
        run = match.group()
        digits = re.sub(r"\D", "", run)
        if not 7 <= len(digits) <= 24 or _PLAIN_NUMBER.fullmatch(run):
            continue
        cut = "\n" in run and tuple(map(len, re.findall(r"\d+", run))) not in _SHAPES
        yield match.start(), match.end(), run.replace("\n", "") if cut else _ODD.sub("-", run)


def look_alike_digit_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that read letters inside a number as the digits they look like."""
    for match in _DISGUISED_DIGITS.finditer(text):
        run = _LOOSE_LETTERS.sub("", match.group())
        if any(c.isalpha() for c in run) and 2 * sum(c.isdecimal() for c in run) >= len(run) // 2:
            yield match.start(), match.start() + len(run), run.translate(_LOOK_DIGITS)


def letter_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that read digits and signs inside a word as letters: "p4ssw0rd"."""
    for match in _LEET_WORD.finditer(text):
        word = match.group()
        letters = sum(c.isalpha() for c in word)
        dotted = "@" in word and "." in text[match.end() : match.end() + 2]
        if 2 * letters >= len(word) and not dotted:
            yield match.start(), match.end(), word.translate(_LEET)


def name_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that write names as names: "james_Hernandez", "erooM nhoJ", "Wil\\nson"."""
    found = [(m.start(), m.end(), m.group()[::-1]) for m in _BACKWARD_NAME.finditer(text)]
    found += [(m.start(), m.end(), " ") for m in _STITCHED_NAME.finditer(text)]
    if "\n" in text:
        found += [(m.start(), m.end(), "" if m[1] else " ") for m in _CUT_NAME.finditer(text)]
    yield from sorted(found)


def capital_edits(text: str) -> Iterator[Edit]:
    """Yield the edits that give names in small or mixed letters a capital.

    They are given names, and the word after one.
    """
    after = -2  # where a given name ended
    for match in _WORD.finditer(text):
        word = match.group()
        given = word.lower() in _GIVEN_NAMES
        second = match.start() == after + 1 and word not in _AFTER_NAMES
        if (given or second) and not (word.istitle() or word.isupper()):
            yield match.start(), match.end(), word.capitalize()
        after = match.end() if given else -2
