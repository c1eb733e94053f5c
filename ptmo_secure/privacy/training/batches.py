"""Labelled texts as batches of tokens and classes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

IGNORED = -100  # class of a token that the loss leaves out
MAX_TOKENS = 192


class Example(Protocol):
    """A text and its private pieces."""

    @property
    def text(self) -> str: ...

    @property
    def spans(self) -> Sequence[tuple[int, int, str]]: ...  # (start, end, kind), not overlapping


@dataclass(frozen=True, slots=True)
class Tagged:
    """The tokens of a text, with [CLS] and [SEP], and a class for each."""

    ids: list[int]
    classes: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded to its longest text."""

    ids: torch.Tensor  # [B, T] int64
    mask: torch.Tensor  # [B, T] int64
    classes: torch.Tensor  # [B, T] int64, `IGNORED` where there is none


def label_names(kinds: Iterable[str]) -> list[str]:
    """Return the classes for these kinds: "O", then "B-KIND", "I-KIND" for each, sorted."""
    return ["O", *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")]


def tag(example: Example, tokenizer: Tokenizer, labels: Sequence[str]) -> Tagged:
    """Tokenise a text and give every token its class; what is over `MAX_TOKENS` is left out.

    A token belongs to a span that it overlaps; it begins the span when no token before it did.

    Raises:
        ValueError: a span of a kind that has no label.
    """
    encoded = tokenizer.encode(example.text, add_special_tokens=False)
    classes = [0] * len(encoded.ids)
    at = 0
    for start, end, kind in sorted(example.spans):
        begin, inside = labels.index(f"B-{kind}"), labels.index(f"I-{kind}")
        while at < len(classes) and encoded.offsets[at][1] <= start:
            at += 1
        first = True
        while at < len(classes) and encoded.offsets[at][0] < end:
            classes[at] = begin if first else inside
            first = False
            at += 1
    keep = MAX_TOKENS - 2
    first_id, last_id = tokenizer.encode("").ids  # [CLS], [SEP]
    return Tagged([first_id, *encoded.ids[:keep], last_id], [IGNORED, *classes[:keep], IGNORED])


def whole_words(tokenizer: Tokenizer, words: Iterable[str]) -> list[int]:
    """Return the tokens of those words that are one token."""
    known = (tokenizer.token_to_id(word) for word in words)
    return [token for token in known if token is not None]


def batches(
    tagged: Sequence[Tagged],
    size_tokens: int,
    generator: np.random.Generator,
    exchanged: float = 0.0,
    everyday: Sequence[int] = (),
) -> Iterator[Batch]:
    """Yield every text once, texts of like length together, batches in random order.

    Args:
        tagged: all texts.
        size_tokens: padded tokens of a batch at most, at least one text.
        generator: of the order, and of the tokens that are exchanged.
        exchanged: share of the tokens outside spans that are replaced, half by others of the batch,
            half by everyday words: what stands around a value is then learned less by heart.
        everyday: tokens of these words; none: all are of the batch.
    """
    noise = generator.uniform(-3, 3, len(tagged))  # so that no two passes make the same batches
    order = sorted(range(len(tagged)), key=lambda i: len(tagged[i].ids) + noise[i])
    groups: list[list[int]] = [[]]
    longest = 0
    for index in order:
        longest = max(longest, len(tagged[index].ids))
        if groups[-1] and longest * (len(groups[-1]) + 1) > size_tokens:
            groups.append([])
            longest = len(tagged[index].ids)
        groups[-1].append(index)
    for which in generator.permutation(len(groups)):
        batch = _padded([tagged[index] for index in groups[which]])
        outside = (batch.classes == 0).numpy()
        chosen = outside & (generator.random(outside.shape) < exchanged)
        ids = batch.ids.numpy()
        if chosen.any():
            others = generator.choice(ids[outside], chosen.sum())
            if len(everyday):
                words = generator.choice(everyday, chosen.sum())
                others = np.where(generator.random(chosen.sum()) < 0.5, words, others)
            ids[chosen] = others
        yield batch


def _padded(group: Sequence[Tagged]) -> Batch:
    longest = max(len(text.ids) for text in group)
    ids = np.zeros((len(group), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    classes = np.full_like(ids, IGNORED)
    for row, text in enumerate(group):
        length = len(text.ids)
        ids[row, :length], classes[row, :length] = text.ids, text.classes
        mask[row, :length] = 1
    return Batch(*(torch.from_numpy(array) for array in (ids, mask, classes)))
