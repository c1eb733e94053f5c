"""One answer being written: logits in, text out, until it ends."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.constraint import Constraint
from ptmo_secure.engine.logprobs import MAX_TOP_LOGPROBS, ScoredStep, score_step
from ptmo_secure.engine.sampler import Sampler, SamplingParams
from ptmo_secure.engine.streaming import TextStream
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError


class Generation:
    """The tokens of one answer, chosen one by one, and the text they make.

    Attributes:
        history: ids of the prompt and of the answer so far.
        prompt_tokens: how many of them are the prompt's.
        finish_reason: None while it goes on, then "stop" | "length".
        scored: log-probabilities of the tokens made since `score` was called.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        max_tokens: int,
        context_tokens: int,
        sampling: SamplingParams | None,
        stop: Sequence[str],
    ) -> None:
        """Begin an answer.

        Args:
            tokenizer: the model's.
            prompt_ids: the whole prompt.
            max_tokens: tokens to make at most, >= 1.
            context_tokens: tokens that prompt and answer may have together.
            sampling: None decodes greedily.
            stop: strings that end the answer; none of them is part of it.

        Raises:
            InputError: a bad argument.
        """
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(f"max_tokens={max_tokens!r} is not a whole number >= 1")
        self.history = list(prompt_ids)
        self.prompt_tokens = len(self.history)
        self.finish_reason: str | None = None
        self.scored: list[ScoredStep] = []
        self._top_logprobs: int | None = None
        self._constraint: Constraint | None = None
        self._limit = min(self.prompt_tokens + max_tokens, context_tokens)
        self._tokenizer = tokenizer
        self._sampler = Sampler(sampling or SamplingParams())
        self._stream = TextStream(stop)

    @property
    def made_tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self.history) - self.prompt_tokens

    def score(self, top: int) -> None:
        """Keep log-probabilities from now on: of each token and of the `top` likeliest beside it.

        They are the model's own, before temperature, penalties and cuts.

        Raises:
            InputError: `top` is not in 0..20.
        """
        if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_TOP_LOGPROBS:
            raise InputError(f"top_logprobs={top!r} is not a whole number in 0..{MAX_TOP_LOGPROBS}")
        self._top_logprobs = top

    @property
    def mean_logprob(self) -> float | None:
        """ln p per token of those scored; None where none is."""
        scored = [step.chosen.logprob for step in self.scored]
        return sum(scored) / len(scored) if scored else None

    def constrain(self, constraint: Constraint) -> None:
        """Hold the answer to a grammar; it ends where the grammar does. Before the first token."""
        self._constraint = constraint

    def push(self, logits: npt.NDArray[np.float32]) -> str:
        """Choose the next token from the logits [vocab] of the last one.

        Returns:
            The text that is now certain, "" for none; with the last token all that was held back.

        Raises:
            EngineError: the logits are not finite.
        """
        token = self._next(logits)
        if self._constraint is None and token in self._tokenizer.stop_ids:
            self.finish_reason = "stop"
            return self._stream.finish()
        if self._top_logprobs is not None:
            self.scored.append(score_step(self._tokenizer, logits, token, self._top_logprobs))
        self.history.append(token)
        piece = self._stream.push(self._tokenizer.token_bytes(token))
        if self._stream.stopped or (self._constraint is not None and self._constraint.done):
            self.finish_reason = "stop"
        elif len(self.history) >= self._limit:
            self.finish_reason = "length"
        return piece if self.finish_reason is None else piece + self._stream.finish()

    def _next(self, logits: npt.NDArray[np.float32]) -> int:
        if self._constraint is None:
            return self._sampler.next(logits, self.history)
        left = self._limit - len(self.history)
        return self._constraint.choose(self._sampler, logits, self.history, left)
