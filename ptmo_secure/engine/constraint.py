"""Holds an answer to a grammar while its tokens are chosen."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.grammar import Grammar
from ptmo_secure.engine.sampler import Sampler
from ptmo_secure.engine.tokenizer import Tokenizer


class ByteVocabulary:
    """A vocabulary by the bytes of its tokens; make one for a model.

    Attributes:
        first_byte: [vocab] int16, -1 for a token that stands for no bytes of text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
        self.first_byte = np.array([text[0] if text else -1 for text in self.tokens], np.int16)
        self._ids: dict[bytes, int] = {}
        for index, text in enumerate(self.tokens):
            self._ids.setdefault(text, index)
        self._longest = max(map(len, self.tokens))

    def longest_prefix(self, text: bytes) -> int:
        """Return the token that stands for most of the beginning of a text, not empty."""
        sizes = range(min(len(text), self._longest), 0, -1)
        return next(self._ids[text[:size]] for size in sizes if text[:size] in self._ids)


class Constraint:
    """One answer's grammar.

    Args:
        vocabulary: the model's; it must have a token for every single byte.
        grammar: what the answer shall be.
    """

    def __init__(self, vocabulary: ByteVocabulary, grammar: Grammar) -> None:
        self._vocabulary, self._grammar = vocabulary, grammar

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self._grammar.done

    def choose(
        self,
        sampler: Sampler,
        logits: npt.NDArray[np.float32],
        history: Sequence[int],
        tokens_left: int,
    ) -> int:
        """Choose the next token among those the grammar allows, and take it.

        Args:
            sampler: chooses among them as it would among all.
            logits: [vocab]; it is not changed.
            history: as for the sampler.
            tokens_left: how many may still be made, this one included; near the end the grammar's
                shortest way out is taken.
        """
        closing = self._grammar.closing()
        if tokens_left <= len(closing):
            token = self._vocabulary.longest_prefix(closing)
        else:
            token = self._among_allowed(sampler, logits, history, tokens_left)
        for byte in self._vocabulary.tokens[token]:
            self._grammar.step(byte)
        return token

    def _among_allowed(
        self,
        sampler: Sampler,
        logits: npt.NDArray[np.float32],
        history: Sequence[int],
        tokens_left: int,
    ) -> int:
        first = [byte for byte in range(256) if self._grammar.copy().step(byte)]
        masked = np.full_like(logits, -math.inf)
        known = self._vocabulary.first_byte
        allowed = np.flatnonzero(np.isin(known, first))
        masked[allowed] = logits[allowed]
        while np.isfinite(masked.max()):
            token = sampler.next(masked, history)
            if self._fits(self._vocabulary.tokens[token], tokens_left - 1):
                return token
            masked[token] = -math.inf
        return self._vocabulary.longest_prefix(self._grammar.closing())

    def _fits(self, text: bytes, tokens_left: int) -> bool:
        """Whether a token may come next, and enough are left to close what it opens."""
        tried = self._grammar.copy()
        return all(tried.step(byte) for byte in text) and len(tried.closing()) <= tokens_left
