"""Chooses tokens where the logits are: on a CUDA device."""

from collections.abc import Sequence

import numpy as np

from ptmo_secure.engine.native_setup import cuda_module
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import EngineError, InputError, native_error

_MOST = 2**31 - 1  # tokens of a vocabulary: top_k above it keeps all


def choose_tokens(
    logits: object, sampling: Sequence[SamplingParams], generator: np.random.Generator | None = None
) -> list[int]:
    """Choose a token for each row of logits; the logits stay on the device.

    Temperature, top-k and top-p are those of `Sampler`; a draw near the edge between two tokens may
    fall to the other one, since sums are taken in another order.

    Args:
        logits: DLPack tensor on the engine's device, float32 [rows, vocab], as `Session.feed_into`
            fills it.
        sampling: one a row. Seeds are not looked at, and a repetition penalty has to be 1.
        generator: makes one draw a row; None makes a generator of its own.

    Returns:
        A token id for each row; greedy takes the smallest id among equal logits.

    Raises:
        InputError: no CUDA device, a tensor that does not fit, a repetition penalty.
        EngineError: a row has a logit that is NaN or +inf, or forbids every token.
    """
    if any(params.repetition_penalty != 1.0 for params in sampling):
        raise InputError("repetition_penalty: tokens chosen on a device have no history")
    draws = (generator or np.random.default_rng()).random(len(sampling))
    rows = [
        (params.temperature, min(params.top_k, _MOST), params.top_p, float(draw))
        for params, draw in zip(sampling, draws, strict=True)
    ]
    try:
        tokens: list[int] = cuda_module().sample(logits, rows)
    except ValueError as error:
        raise InputError(str(error)) from None
    except RuntimeError as error:
        raise native_error(error) from None
    if min(tokens, default=0) < 0:
        raise EngineError("the model gave logits that are not finite")
    return tokens
