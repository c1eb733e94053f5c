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
_FIRST_SORTED = 256


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
        if logits.ndim != 1 or logits.size == 0:
            raise EngineError(f"logits have shape {logits.shape}, not [vocab]")
        best = int(logits.argmax())  # the first NaN where there is one
        if not math.isfinite(logits[best]):
            raise EngineError("the model gave logits that are not finite")
        greedy, top_k = self.params.temperature == 0, self.params.top_k
        if greedy and self.params.repetition_penalty == 1.0:
            return best
        scores = self._penalised(logits, history)
        if greedy:
            return int(scores.argmax())
        if top_k == 0:
            return self._draw(scores)
        ids = _likeliest(scores, top_k)[:top_k]
        return int(ids[self._draw(scores[ids])])

    def _penalised(self, logits: np.ndarray, history: Sequence[int]) -> np.ndarray:
        penalty = self.params.repetition_penalty
        if penalty == 1.0 or len(history) == 0:
            return logits
        scores = np.array(logits, dtype=np.float64)
        seen = np.unique(np.asarray(history, dtype=np.int64))
        if seen[0] < 0 or seen[-1] >= scores.size:
            raise EngineError(f"the history holds an id outside 0..{scores.size - 1}")
        values = scores[seen]
        scores[seen] = np.where(values > 0, values / penalty, values * penalty)
        return scores

    def _draw(self, scores: np.ndarray) -> int:
        """Draw from softmax(scores / temperature) cut by top-p; likelier first, ties by place.

        Only so many of the likeliest are sorted as the draw can reach: a handful as a rule, where
        a full sort of a vocabulary takes longer than a forward pass.
        """
        top_p = self.params.top_p
        scaled = scores.astype(np.float64) / self.params.temperature
        weights = np.exp(scaled - scaled.max())
        draw, total, size = self._generator.random(), weights.sum(), _FIRST_SORTED
        while True:
            order = _likeliest(scores, size)
            cumulative = np.cumsum(weights[order])
            all_sorted = len(order) == len(scores)
            mass = cumulative[-1] if all_sorted else total
            if top_p < 1.0:
                kept = min(int(np.searchsorted(cumulative, top_p * mass)), len(order) - 1)
                enough = cumulative[kept] >= top_p * mass
                mass = cumulative[kept]
            else:
                enough = draw * mass < cumulative[-1]
            if enough or all_sorted:
                at = np.searchsorted(cumulative, draw * mass, side="right")
                return int(order[min(at, len(order) - 1)])
            size *= 16


def _likeliest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the ids of the `count` highest scores and of all that equal the last, sorted."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    lowest = np.partition(scores, -count)[-count]
    ids = np.flatnonzero(scores >= lowest)
    return ids[np.argsort(-scores[ids], kind="stable")]


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must be a number in {low:g}..{high:g}, not {value!r}")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEED:
        raise InputError(f"{name} must be an integer in 0..2^63-1, not {value!r}")
