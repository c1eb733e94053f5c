"""What a question looks like, whatever it is about: lengths, numbers, negation, options."""

import re

import numpy as np

from ptmo_secure.offload.actions import Floats

_OPTION = re.compile(r"^[A-J][.)] ", re.MULTILINE)
_CLOSE = re.compile(r"\n\s*Answer:\s*$")
_MAX_CHARS = 2_000  # of a text, as for its words
_LONG = 5  # letters of a word that says something, when it comes again in an option
_FLAGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:NOT|EXCEPT|LEAST)\b",
        r"(?i)\b(?:not|except|least|false|incorrect|never|cannot)\b",
        r"(?i)\bstatement 1\b",
        r"_ ?_",
        r"\?\s*$",
        r":\s*$",
        r"(?i)\bwhich of the following\b",
        r"(?i)^\s*(?:what|who|when|where)\b",
        r"(?i)\b(?:why|how)\b",
        r"(?i)\b(?:calculate|compute|find|evaluate|solve|how many|how much)\b",
        r"(?i)^\s*this question refers",
        r"(?i)\b(?:he|she|his|her|man|woman|patient|plaintiff|defendant)\b",
        r"\b(?:1\d{3}|20\d{2})\b",
        r"[^\x00-\x7f]",
    )
)
_WHOLE = re.compile(r"(?i)\b(?:all|none|both|neither)\b")
_VERDICT = re.compile(r"(?i)(?:true|false|yes|no|wrong|not wrong)\b")
_OPERATOR, _BRACKET, _WORD = (
    re.compile(r"[=+\-*/^<>]"),
    re.compile(r"[()\[\]{}]"),
    re.compile(r"\w+"),
)


def shape(text: str) -> Floats:
    """Return what a question looks like, [44]; its options are lines that begin with "A. ".

    Of the stem: lengths, digits, marks, capitals, variety, and whether each of `_FLAGS` occurs; of
    the options: how many, how long and how alike, how many hold numbers, commas, "all of the above"
    or a verdict, and words of the stem that come again. Without options these are 0.
    """
    text = _CLOSE.sub("", text[:_MAX_CHARS])
    stem, *options = (part.strip() for part in _OPTION.split(text))
    words = stem.split()
    return np.array(
        [
            *_lengths(stem, words),
            *(float(flag.search(stem) is not None) for flag in _FLAGS),
            len(_OPERATOR.findall(text)),
            len(_BRACKET.findall(text)),
            *_options(options, stem),
        ],
        dtype=np.float64,
    )


def _lengths(stem: str, words: list[str]) -> list[float]:
    digits = sum(letter.isdigit() for letter in stem)
    chars, count = 1 + len(stem), 1 + len(words)
    return [
        np.log(chars),
        np.log(count),
        sum(map(len, words)) / count,
        digits,
        digits / chars,
        *(stem.count(mark) for mark in '.,"\n'),
        sum(letter.isupper() for letter in stem) / chars,
        sum(word[0].isupper() for word in words) / count,
        len({word.lower() for word in words}) / count,
    ]


def _options(options: list[str], stem: str) -> list[float]:
    if not options:
        return [0.0] * 16
    lengths = np.log1p([len(option) for option in options])
    numeric = [any(letter.isdigit() for letter in option) for option in options]
    said = {word for word in _WORD.findall(stem.lower()) if len(word) >= _LONG}
    again = sum(word in option.lower() for word in said for option in options)
    firsts = {option.split()[0].lower() if option else "" for option in options}
    return [
        len(options),
        np.log1p(sum(map(len, options))),
        lengths.max(),
        lengths.min(),
        lengths.max() - float(np.median(lengths)),
        float(np.argmax(lengths)),
        float(np.mean([len(option.split()) for option in options])),
        sum(numeric),
        sum(has and len(option) <= 12 for has, option in zip(numeric, options, strict=True)),
        sum(_WHOLE.search(option) is not None for option in options),
        sum(_VERDICT.match(option) is not None for option in options),
        sum("," in option for option in options),
        len(firsts),
        len(set(options)),
        np.log1p(again),
        sum(option[:1].isupper() for option in options),
    ]
