"""Positions of a text, and what both models said of each: the table that fusion is measured by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion.cloud_role import EngineCloud
from ptmo_secure.cloud.fusion.align import TokenMap, same_spans, token_ends
from ptmo_secure.cloud.fusion.mix import Atoms, DeviceView, join
from ptmo_secure.cloud.types import TokenLogprob
from ptmo_secure.engine.engine import Engine

CHUNK_TOKENS = 64


def rows(engine: Engine, ids: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the logits [vocab] behind each token, a chunk of them in memory at a time."""
    with engine.open_session() as session:
        for start in range(0, len(ids), CHUNK_TOKENS):
            yield from session.feed(ids[start : start + CHUNK_TOKENS], all_logits=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """One token of a text under two models with different tokenizers.

    Attributes:
        token: the device's true next token.
        device_loss: of it, by the device alone, nats.
        atoms: both distributions; None where the tokenisations do not line up.
    """

    token: int
    device_loss: float
    atoms: Atoms | None


@dataclass(frozen=True, slots=True)
class PairedText:
    """All positions of a text, and how its two tokenisations compare."""

    pairs: tuple[Pair, ...]
    same_spans: float
    same_starts: float
    cloud_loss: float  # of the cloud alone over its own tokens, nats in all
    text_bytes: int


def pair_text(
    device: Engine, cloud: EngineCloud, tokens: TokenMap, text: str, top_logprobs: int
) -> PairedText:
    """Run a text through both models; the first token of it is not judged."""
    ids = device.tokenizer.encode(text)
    cloud_ids = cloud.engine.tokenizer.encode(text, add_bos=True)
    tops: list[tuple[TokenLogprob, ...]] = []
    cloud_loss = 0.0
    for at, logits in enumerate(rows(cloud.engine, cloud_ids)):
        tops.append(cloud.top(logits, top_logprobs))
        if at + 1 < len(cloud_ids):
            cloud_loss -= float(DeviceView.of(logits).log_p[cloud_ids[at + 1]])
    cloud_ends = token_ends(map(cloud.engine.tokenizer.token_bytes, cloud_ids))
    behind = {end: at for at, end in enumerate(cloud_ends)}
    ends = token_ends(map(device.tokenizer.token_bytes, ids))
    pairs = []
    for end, token, logits in zip(ends, ids[1:], rows(device, ids), strict=False):
        view = DeviceView.of(logits)
        top = tokens.top(tops[behind[end]]) if end in behind else None
        atoms = None if top is None else join(view, top)
        pairs.append(Pair(token, -float(view.log_p[token]), atoms))
    first = 1 if cloud_ends[0] == 0 else 0  # BOS has no bytes
    spans, starts = same_spans(ends, cloud_ends[first:])
    return PairedText(tuple(pairs), spans, starts, cloud_loss, len(text.encode()))
