"""Chooses the next token from the logits.

The order is llama.cpp's and transformers' common one: repetition penalty, temperature, top-k,
top-p, one draw. Draws come from NumPy's PCG64, so equal seeds and logits give equal tokens.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptmo_secure.errors import EngineError, InputError

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities reach it, in (0, 1].
        repetition_penalty: logits of tokens seen so far are divided by it where positive and
            multiplied where negative (Keskar et al., CTRL, 2019, section 4.1); 1 is off.
        seed: None draws one.

    Raises:
        InputError: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if self.top_p == 0:
            raise InputError("top_p must be above 0")
        _check_integer("top_k", self.top_k)
        if self.seed is not None:
            _check_integer("seed", self.seed)


class Sampler:
    """Draws the tokens of one answer.

    Args:
        params: how.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        # An unseeded draw must differ from run to run; it need not withstand prediction.
        seed = secrets.randbits(63) if params.seed is None else params.seed
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def next(self, logits: np.ndarray, history: Sequence[int]) -> int:
        """Choose a token.

        Args:
            logits: [vocab] float32; it is not changed. -inf forbids a token.
            history: ids of the prompt and the answer so far.

        Returns:
            A token id; greedy takes the smallest id among equal logits.

        Raises:
            EngineError: a logit is NaN or +inf, or every token is forbidden.
        """
        scores = np.array(logits, dtype=np.float64)
        if scores.ndim != 1 or scores.size == 0:
            raise EngineError(f"logits have shape {scores.shape}, not [vocab]")
        if np.isnan(scores).any() or (best := scores.max()) == math.inf or best == -math.inf:
            raise EngineError("the model gave logits that are not finite")
        self._penalise(scores, history)
        if self.params.temperature == 0:
            return int(scores.argmax())
        return self._draw(scores / self.params.temperature)

    def _penalise(self, scores: np.ndarray, history: Sequence[int]) -> None:
        penalty = self.params.repetition_penalty
        if penalty == 1.0 or len(history) == 0:
            return
        seen = np.unique(np.asarray(history, dtype=np.int64))
        if seen[0] < 0 or seen[-1] >= scores.size:
            raise EngineError(f"the history holds an id outside 0..{scores.size - 1}")
        values = scores[seen]
        scores[seen] = np.where(values > 0, values / penalty, values * penalty)

    def _draw(self, scores: np.ndarray) -> int:
        """Draw from softmax(scores) cut by top-k and top-p; likelier tokens first, ties by id."""
        order = np.argsort(-scores, kind="stable")
        if self.params.top_k:
            order = order[: self.params.top_k]
        weights = np.exp(scores[order] - scores[order[0]])
        cumulative = np.cumsum(weights)
        if self.params.top_p < 1.0:
            kept = int(np.searchsorted(cumulative, self.params.top_p * cumulative[-1])) + 1
            order, cumulative = order[:kept], cumulative[:kept]
        point = self._generator.random() * cumulative[-1]
        return int(order[min(np.searchsorted(cumulative, point, side="right"), len(order) - 1)])


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must be a number in {low:g}..{high:g}, not {value!r}")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEED:
        raise InputError(f"{name} must be an integer in 0..2^63-1, not {value!r}")
