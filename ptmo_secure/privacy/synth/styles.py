"""How a text was typed: changes of its pieces that keep the labels right."""

import random
from collections.abc import Callable, Sequence

from ptmo_secure.privacy.synth.example import Piece

# Case carries the value itself
_EXACT = frozenset({"SECRET", "API_KEY"})
_OPENERS = (
    "hi, ",
    "Hello, ",
    "hey ",
    "Hi! ",
    "Quick question: ",
    "ok so ",
    "Please help. ",
    "FYI: ",
)
_CLOSERS = (
    *(" Thanks!", " thanks", " Please help.", " What should I do?", " Any ideas?", " pls advise"),
    *(
        " Can you help me with this?",
        " Make it polite.",
        " Keep it short.",
        " Thank you in advance.",
    ),
)
_SHORTHAND = {
    **{" you ": " u ", " your ": " ur ", " please ": " pls ", " because ": " bc ", " are ": " r "},
    **{" and ": " n ", " do not ": " dont ", " to ": " 2 ", "I'm ": "im ", "don't": "dont"},
}


def restyle(pieces: Sequence[Piece], rng: random.Random) -> list[Piece]:
    """Retype a text: lower case, capitals, slips, shorthand, an opening or a closing; or not."""
    changed = list(pieces)
    draw = rng.random()
    if draw < 0.16:
        changed = _cased(changed, str.lower)
    elif draw < 0.18:
        changed = _cased(changed, str.upper)
    elif draw < 0.21:
        changed = [Piece(p.text.lower()) if p.kind is None else p for p in changed]
    if rng.random() < 0.06:
        changed = [Piece(_slip(p.text, rng)) if p.kind is None else p for p in changed]
    if rng.random() < 0.05:
        changed = [Piece(_short(p.text)) if p.kind is None else p for p in changed]
    if rng.random() < 0.06:
        changed.insert(0, Piece(rng.choice(_OPENERS)))
    if rng.random() < 0.07:
        changed.append(Piece(rng.choice(_CLOSERS)))
    if rng.random() < 0.12 and changed and changed[-1].kind is None:
        changed[-1] = Piece(changed[-1].text.rstrip(".!?"))
    if rng.random() < 0.02:
        changed = [Piece(p.text.replace(". ", ".\n")) if p.kind is None else p for p in changed]
    return changed


def _cased(pieces: Sequence[Piece], change: Callable[[str], str]) -> list[Piece]:
    return [p if p.kind in _EXACT else Piece(change(p.text), p.kind) for p in pieces]


def _slip(text: str, rng: random.Random) -> str:
    """Swap two letters inside a word, or leave one out."""
    inside = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 3].isalpha()]
    if not inside:
        return text
    at = rng.choice(inside)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :]


def _short(text: str) -> str:
    for long, short in _SHORTHAND.items():
        text = text.replace(long, short)
    return text
