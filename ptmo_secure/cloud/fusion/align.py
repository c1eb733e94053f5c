"""Tokens of two vocabularies, compared by their bytes.

A cloud's tokens come as bytes, not as ids, and its vocabulary is not known. The device's next token
and the cloud's can be compared where both begin at the same byte of the answer; elsewhere the
position is skipped (SAFE, arXiv 2510.15346). There, a listed token of the cloud's counts for

- the device's token of the same bytes, where there is one, else
- the longest of the device's tokens that those bytes begin with: what the device would write first
  to write the same.

No projection between vocabularies is built.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ptmo_secure.cloud.fusion.mix import CloudTop
from ptmo_secure.cloud.types import TokenLogprob
from ptmo_secure.engine.tokenizer import Tokenizer

# Names under which servers report the end of a turn; no text that a model writes looks like them.
_END = re.compile(rb"<\|[a-z_]{1,24}\|>|<end_of_turn>|<eos>")
_BROKEN = "\ufffd".encode()  # what a server puts where it cut a character in two
MAX_LOGPROB = 1e-3  # rounding alone may bring it above 0
MAX_MASS = 1.02
MAX_TOKEN_BYTES = 256
MAX_TOKENS = 64  # alternatives of one position; APIs give at most 20


class TokenMap:
    """The device's vocabulary, looked up by bytes.

    Args:
        tokenizer: the device model's.
        exact: take tokens of the very same bytes alone.
    """

    def __init__(self, tokenizer: Tokenizer, *, exact: bool = False) -> None:
        self._ids: dict[bytes, int] = {}
        for index in range(tokenizer.vocab_size):
            data = tokenizer.token_bytes(index)
            if data:
                self._ids.setdefault(data, index)
        self._longest = max(map(len, self._ids), default=0)
        self._exact = exact
        ends = (tokenizer.eot_id, tokenizer.eos_id, *sorted(tokenizer.stop_ids))
        self.end_id: int | None = next((index for index in ends if index is not None), None)

    def token_id(self, data: bytes) -> int | None:
        """Return the device's token for a cloud token's bytes, None where there is none.

        No bytes, and the names of turn ends, stand for the end of the answer.
        """
        if not data or _END.fullmatch(data):
            return self.end_id
        found = self._ids.get(data)
        if found is not None or self._exact or _BROKEN in data:
            return found
        for length in range(min(len(data) - 1, self._longest), 0, -1):
            found = self._ids.get(data[:length])
            if found is not None:
                return found
        return None

    def top(self, tokens: Iterable[TokenLogprob]) -> CloudTop | None:
        """Return what the tokens say in the device's ids; None where that is nothing.

        The masses of tokens that count for the same id add up; what counts for none joins the rest.
        """
        masses: dict[int, float] = {}
        ceiling = 0.0
        for token in tokens:
            ceiling = min(ceiling, token.logprob)
            index = self.token_id(token.bytes)
            if index is not None:
                masses[index] = masses.get(index, 0.0) + float(np.exp(token.logprob))
        kept = {index: mass for index, mass in masses.items() if mass > 0.0}
        if not kept:
            return None
        return CloudTop(
            np.fromiter(kept, dtype=np.int64, count=len(kept)),
            np.minimum(np.log(np.fromiter(kept.values(), dtype=np.float64)), 0.0),
            ceiling,
        )


def is_sound(tokens: Sequence[TokenLogprob]) -> bool:
    """Say whether a position's alternatives can be what they claim to be: probabilities."""
    if not tokens or len(tokens) > MAX_TOKENS:
        return False
    mass = 0.0
    for token in tokens:
        if not token.logprob <= MAX_LOGPROB or len(token.bytes) > MAX_TOKEN_BYTES:  # NaN too
            return False
        mass += float(np.exp(token.logprob))
    return 0.0 < mass <= MAX_MASS


def token_ends(pieces: Iterable[bytes]) -> list[int]:
    """Return the byte offset behind each token."""
    ends: list[int] = []
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece))
    return ends


def same_spans(left: Sequence[int], right: Sequence[int]) -> tuple[float, float]:
    """Compare two tokenisations of one text.

    Args:
        left, right: byte offsets behind each token (`token_ends`), the text's length last.

    Returns:
        The share of left tokens that are right tokens too, and of those that begin where a right
        token begins.
    """
    starts = {0, *right[:-1]}
    spans = set(zip([0, *right[:-1]], right, strict=True))
    own = list(zip([0, *left[:-1]], left, strict=True))
    return (
        sum(span in spans for span in own) / len(own),
        sum(start in starts for start, _ in own) / len(own),
    )
