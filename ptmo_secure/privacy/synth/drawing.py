"""Drawing templates and filling them."""

import random
from collections.abc import Callable, Sequence
from functools import cache

from ptmo_secure.privacy.synth.example import Example, Label, Piece, Split, join
from ptmo_secure.privacy.synth.fillers import Sources
from ptmo_secure.privacy.synth.grammar import expand
from ptmo_secure.privacy.synth.korean import KoreanFiller
from ptmo_secure.privacy.synth.styles import restyle
from ptmo_secure.privacy.synth.templates import Template, of_split


@cache
def _weights(family: str, split: Split) -> list[float]:
    return [template.weight for template in of_split(family, split)]


def pick(family: str, sources: Sources) -> Template:
    """A template of a family, by weight."""
    templates = of_split(family, sources.split)
    return sources.rng.choices(templates, _weights(family, sources.split))[0]


def pick_of(families: Sequence[str], sources: Sources) -> Template:
    """A template of several families, each as often as its templates weigh."""
    sizes = [sum(_weights(family, sources.split)) for family in families]
    return pick(sources.rng.choices(families, sizes)[0], sources)


def concatenate(parts: Sequence[Example], separator: str) -> Example:
    """Put examples one after the other; the first gives the template."""
    spans: list[Label] = []
    at = 0
    for part in parts:
        spans += [Label(span.start + at, span.end + at, span.kind) for span in part.spans]
        at += len(part.text) + len(separator)
    text = separator.join(part.text for part in parts)
    return Example(text, tuple(spans), parts[0].template, language=parts[0].language)


def korean(template: Template, sources: Sources) -> Example:
    """Fill a Korean template."""
    filler = KoreanFiller(sources.rng, sources.split)
    return render(template, filler, sources.rng, styled=False, language="ko")


def render(
    template: Template,
    fill: Callable[[str], Piece],
    rng: random.Random,
    *,
    styled: bool = True,
    language: str = "en",
) -> Example:
    """Expand one of the template's wordings into a text with spans."""
    pieces = expand(rng.choice(template.parsed), fill, rng)
    if styled:
        pieces = restyle(pieces, rng)
    text, spans = join(pieces)
    return Example(text, spans, template.id, template.frame, language)
