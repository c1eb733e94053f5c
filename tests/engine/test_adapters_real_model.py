"""SmolLM2 with adapters: INT8 adapters cost no more than INT8 does without them."""

from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine import registry
from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from tests.references import log_softmax

MODEL = "smollm2-135m"
TEXT = Path(__file__).parents[1] / "data" / "mixed_text.txt"
SETS = {"none": [], "one": ["a0"], "three": ["a0", "a1", "a2"], "rank 64": ["wide"]}
TOKENS = 128


def predictions(**fields):
    """Log probabilities of every set, [TOKENS, vocab] each."""
    with Engine.load(MODEL, shield="none", threads=2, context_tokens=TOKENS, **fields) as engine:
        for seed in range(3):
            engine.add_adapter(f"a{seed}", random_adapter(engine.model, 16, seed))
        engine.add_adapter("wide", random_adapter(engine.model, 64, 7))
        ids = engine.tokenizer.encode(TEXT.read_text())[:TOKENS]
        return {name: log_softmax(engine.forward(ids, names)) for name, names in SETS.items()}


def divergence(p, q):
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def test_integer_adapters_predict_like_float_ones():
    try:
        registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    exact = predictions(activations="fp32", kv_dtype="fp32")
    integer = predictions()
    lost = {name: divergence(exact[name], integer[name]) for name in SETS}  # nats
    for name in list(SETS)[1:]:
        assert divergence(exact["none"], exact[name]) > 3 * lost[name]  # it changes something
        assert lost[name] < 1.5 * lost["none"] < 0.01


def adapted_logits(count, **fields):
    with Engine.load(MODEL, context_tokens=64, **fields) as engine:
        names = [f"a{seed}" for seed in range(count)]
        for seed, name in enumerate(names):
            engine.add_adapter(name, random_adapter(engine.model, 16, seed))
        ids = engine.tokenizer.encode(TEXT.read_text())[:40]
        session = engine.start_session(names)
        return np.concatenate([session.feed(ids), *(session.feed([i]) for i in ids[:3])])


@pytest.mark.parametrize("count", [1, 3])
def test_shields_and_threads_change_no_bit_of_a_real_models_logits(count):
    try:
        registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    plain = adapted_logits(count, shield="none", threads=1)
    for shield in ("permute", "seal"):
        assert np.array_equal(adapted_logits(count, shield=shield, threads=2), plain)
