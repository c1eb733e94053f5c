r"""The little language of the templates.

{slot}      a filled value, labelled with the slot's kind; {p.first} belongs to the person p
{!slot}     the same value without a label: it is not private here
{slot#1}    one value for all places with this number
{^은/는}     the Korean particle that fits the syllable before it
[a|b|]      one of the alternatives; they nest, and may be empty
\n \t \s    newline, tab, a space at the end of a line
\[          a backslash before any other character makes it stand for itself
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ptmo_secure.privacy.synth.example import Piece

Fill = Callable[[str], Piece]
_ESCAPES = {"n": "\n", "t": "\t", "s": " "}


@dataclass(frozen=True, slots=True)
class Slot:
    """A place to fill."""

    name: str
    public: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives, each a sequence of nodes."""

    options: "tuple[tuple[Node, ...], ...]"


Node = str | Slot | Choice


def parse(source: str) -> tuple[Node, ...]:
    """Read one template.

    Raises:
        ValueError: on an unclosed or unopened bracket or brace; the text quotes the template.
    """
    options, at = _options(source, 0, nested=False)
    if at != len(source):
        raise ValueError(f"stray ']' at {at} in template {source!r}")
    return options[0]


def _options(source: str, at: int, *, nested: bool) -> tuple[tuple[tuple[Node, ...], ...], int]:
    """Read alternatives up to the bracket that closes them, or to the end."""
    options: list[tuple[Node, ...]] = []
    nodes: list[Node] = []
    text: list[str] = []

    def end_text() -> None:
        if text:
            nodes.append("".join(text))
            text.clear()

    while at < len(source) and source[at] != "]":
        char = source[at]
        at += 1
        if char == "\\" and at < len(source):
            text.append(_ESCAPES.get(source[at], source[at]))
            at += 1
        elif char == "|" and nested:
            end_text()
            options.append(tuple(nodes))
            nodes.clear()
        elif char == "{":
            end_text()
            close = source.find("}", at)
            if close < 0:
                raise ValueError(f"unclosed '{{' in template {source!r}")
            name = source[at:close]
            nodes.append(Slot(name.removeprefix("!"), name.startswith("!")))
            at = close + 1
        elif char == "[":
            end_text()
            inner, at = _options(source, at, nested=True)
            if at >= len(source):
                raise ValueError(f"unclosed '[' in template {source!r}")
            nodes.append(Choice(inner))
            at += 1
        else:
            text.append(char)
    end_text()
    options.append(tuple(nodes))
    return tuple(options), at


def expand(nodes: tuple[Node, ...], fill: Fill, rng: random.Random) -> list[Piece]:
    """Choose among the alternatives and fill the slots.

    Args:
        nodes: a parsed template.
        fill: gives the value of a slot.
        rng: decides the alternatives.
    """
    pieces: list[Piece] = []
    for node in _chosen(nodes, rng):
        if isinstance(node, str):
            pieces.append(Piece(node))
        elif node.name.startswith("^"):
            before = "".join(piece.text for piece in pieces[-2:])
            pieces.append(Piece(particle(node.name[1:], before)))
        else:
            value = fill(node.name)
            pieces.append(Piece(value.text) if node.public else value)
    return pieces


def _chosen(nodes: tuple[Node, ...], rng: random.Random) -> Iterator[str | Slot]:
    for node in nodes:
        if isinstance(node, Choice):
            yield from _chosen(rng.choice(node.options), rng)
        else:
            yield node


def slots(nodes: tuple[Node, ...]) -> set[Slot]:
    """Every slot that some choice of alternatives fills."""
    found: set[Slot] = set()
    for node in nodes:
        if isinstance(node, Slot):
            found.add(node)
        elif isinstance(node, Choice):
            found |= {slot for option in node.options for slot in slots(option)}
    return found


def particle(pair: str, before: str) -> str:
    """Choose a Korean particle: "은/는" gives 은 after a final consonant, else 는.

    For "으로/로" a final ㄹ counts as none. Digits count as they are read aloud.

    Args:
        pair: the forms after a consonant and after a vowel, with a slash between.
        before: what stands before; only its last letter or digit counts.
    """
    consonant, vowel = pair.split("/")
    last = next((char for char in reversed(before) if char.isalnum()), "")
    if "가" <= last <= "힣":
        final = (ord(last) - ord("가")) % 28
        closed = final != 0 and not (final == 8 and consonant == "으로")
    elif last.isdigit():
        closed = last in ("036" if consonant == "으로" else "013678")
    else:
        closed = last.lower() in "lmnkpt" and last != ""
    return consonant if closed else vowel
