"""Log-probabilities of chosen tokens and of the likeliest beside them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.tokenizer import Tokenizer

MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, its bytes, and ln p of it before temperature and cuts."""

    token_id: int
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredStep:
    """A token that was chosen, and the likeliest at its place, likeliest first."""

    chosen: ScoredToken
    top: tuple[ScoredToken, ...]


def score_step(
    tokenizer: Tokenizer, logits: npt.NDArray[np.float32], token: int, top: int
) -> ScoredStep:
    """Return ln softmax(logits) of a token and of the `top` likeliest; ties by the smaller id.

    Args:
        tokenizer: says what bytes a token stands for; a control token stands for its name.
        logits: [vocab], finite or -inf.
        token: the one that was chosen.
        top: 0..`MAX_TOP_LOGPROBS`.
    """
    scores = logits.astype(np.float64)
    peak = scores.max()
    log_total = peak + np.log(np.exp(scores - peak).sum())

    def scored(index: int) -> ScoredToken:
        data = tokenizer.token_bytes(index, special=True)
        return ScoredToken(index, data, float(scores[index] - log_total))

    likeliest: list[int] = []
    if top:
        lowest = np.partition(scores, -top)[-top] if top < len(scores) else scores.min()
        ids = np.flatnonzero(scores >= lowest)
        likeliest = ids[np.argsort(-scores[ids], kind="stable")][:top].tolist()
    return ScoredStep(scored(token), tuple(scored(index) for index in likeliest))
