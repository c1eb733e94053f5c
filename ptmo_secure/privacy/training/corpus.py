"""What the guard's classifier learns from: made-up texts, some of them rewritten to hide values."""

import random
from collections.abc import Iterator, Sequence

from ptmo_secure.privacy.obfuscate import OBFUSCATIONS
from ptmo_secure.privacy.synth import KINDS, Example, dataset
from ptmo_secure.privacy.synth.example import Label, Split

# The kinds that the guard calls otherwise
_GUARD_NAMES = {"NATIONALITY": "DEMOGRAPHIC"}
GUARD_KINDS = tuple(_GUARD_NAMES.get(kind, kind) for kind in KINDS)
_REWRITTEN = 0.05  # share of the texts of which a copy is rewritten
# Rewritings that leave a word visible; the others are undone before the model reads
_VISIBLE = (
    *("leet", "spaced", "dotted", "newline_split", "upper_case", "lower_case", "reversed"),
    *("spelled_out", "rot13", "cyrillic"),
)


def corpus(
    split: Split, n: int, seed: int, *, languages: Sequence[str] = ("en", "ko")
) -> Iterator[Example]:
    """Yield labelled texts in the guard's kinds.

    Args:
        split: "train" or "heldout".
        n: how many, without the rewritten copies.
        seed: the same seed gives the same texts.
        languages: as for `dataset`.
    """
    rng = random.Random(f"corpus/{seed}")  # noqa: S311 - data, not secrets
    for example in dataset(split, n, seed, languages=languages):
        renamed = _renamed(example)
        yield renamed
        if renamed.spans and rng.random() < _REWRITTEN:
            yield rewritten(renamed, rng)


def rewritten(example: Example, rng: random.Random) -> Example:
    """Return the text with one value written so that it hides, and its label around it."""
    chosen = rng.choice(example.spans)
    before = (chosen.start, chosen.end)
    text, (start, end) = OBFUSCATIONS[rng.choice(_VISIBLE)](example.text, before)
    grown = (end - start) - (chosen.end - chosen.start)
    spans = tuple(
        Label(start, end, span.kind)
        if span == chosen
        else Label(span.start + grown, span.end + grown, span.kind)
        if span.start >= chosen.end
        else span
        for span in example.spans
    )
    return Example(text, spans, example.template, example.frame, example.language)


def _renamed(example: Example) -> Example:
    spans = tuple(
        Label(span.start, span.end, _GUARD_NAMES.get(span.kind, span.kind))
        for span in example.spans
    )
    return Example(example.text, spans, example.template, example.frame, example.language)
