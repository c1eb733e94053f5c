"""Every supported architecture gives transformers' logits on a tiny seeded model."""

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from tests.references import log_softmax
from tests.tiny_models import make_tiny_model

FAMILIES = {
    "llama": {},
    "smollm-tied": {"tied": True},
    "llama-untied": {"tied": False},
    "mistral": {"family": "mistral"},
    "qwen2-biases": {"family": "qwen2"},
    "llama3-rope-scaling": {"rope_scaling": "llama3"},
    "one-kv-head": {"n_heads": 4, "n_kv_heads": 1},
    "no-grouping": {"n_heads": 2, "n_kv_heads": 2, "head_dim": 32},
    "head-dim-64": {"n_heads": 3, "n_kv_heads": 1, "head_dim": 64, "d_model": 96},
    "qwen3": {"family": "qwen3", "head_dim": 32},
    "gemma3": {"family": "gemma3", "n_layers": 7, "tied": True},
    "gemma3-untied": {"family": "gemma3", "n_layers": 2, "sliding_period": 2, "head_dim": 48},
    "gemma3-rope-scaling": {
        "family": "gemma3",
        "n_layers": 3,
        "sliding_period": 3,
        "rope_theta": 1e6,
        "rope_scaling": "linear",
    },
}
QUANTS = ("Q4_1", "Q4_0", "Q8_0", "F16", "BF16", "F32", "Q5_0")
IDS = [int(i) for i in np.random.default_rng(5).integers(0, 250, 75)]


def hf_logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def reference_logits(path, ids, **fields):
    with Engine.load(
        path, shield="none", activations="fp32", kv_dtype="fp32", threads=1, **fields
    ) as engine:
        return engine.forward(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_path_equals_transformers_for_each_family(family, tmp_path):
    tiny = make_tiny_model(tmp_path, "Q4_1", **FAMILIES[family])
    expected = hf_logits(tiny.reference(), IDS)
    got = reference_logits(tiny.path, IDS)
    assert np.abs(got - expected).max() < 2e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("quant", QUANTS)
def test_reference_path_equals_transformers_for_each_weight_format(quant, tmp_path):
    tiny = make_tiny_model(tmp_path, quant)
    expected = hf_logits(tiny.reference(), IDS)
    got = reference_logits(tiny.path, IDS)
    assert np.abs(got - expected).max() < 2e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_equals_prefill_at_once(chunk, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    whole = reference_logits(path, IDS, prefill_chunk_tokens=128)
    parts = reference_logits(path, IDS, prefill_chunk_tokens=chunk)
    assert np.abs(whole - parts).max() < 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("window", [1, 15, 16, 17, 31, 32, 33, 74, 75, 76])
def test_a_sliding_window_ends_where_transformers_ends_it(window, tmp_path):
    """Windows around the pages of 16 rows and around the prompt's 75 tokens; decoding too."""
    shape = {"family": "gemma3", "n_layers": 2, "sliding_period": 2, "tied": True}
    tiny = make_tiny_model(tmp_path, "Q8_0", sliding_window=window, **shape)
    expected = hf_logits(tiny.reference(), IDS)
    tolerance = 2e-4 * np.abs(expected).max()
    fields = {"activations": "fp32", "kv_dtype": "fp32", "rows_per_page": 16}
    with Engine.load(tiny.path, shield="none", threads=1, **fields) as engine:
        assert engine.context_tokens == 512  # the window caps no context
        session = engine.start_session()
        prefill = session.feed(IDS[:60], all_logits=True)
        got = np.concatenate([prefill, *(session.feed([i]) for i in IDS[60:])])
    assert np.abs(got - expected).max() < tolerance
    if window < len(IDS):  # one token more or less would have been noticed
        other = make_tiny_model(tmp_path, "Q8_0", sliding_window=window + 1, **shape)
        assert np.abs(hf_logits(other.reference(), IDS) - expected).max() > 10 * tolerance


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_integer_path_meets_the_quality_bounds_of_the_new_families(family, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **FAMILIES[family]).path
    expected = log_softmax(reference_logits(path, IDS))
    with Engine.load(path, shield="none", threads=1) as engine:
        got = log_softmax(engine.forward(IDS))
    assert (np.exp(expected) * (expected - got)).sum(axis=-1).mean() < 0.001
    top2 = np.sort(expected, axis=-1)[:, -2:]
    parted = expected.argmax(axis=-1) != got.argmax(axis=-1)
    assert np.all((top2[:, 1] - top2[:, 0])[parted] < 0.1)  # nats: near-ties alone may flip


@pytest.mark.parametrize("family", ["llama", "qwen2-biases", "llama3-rope-scaling", "qwen3"])
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_integer_path_stays_close_to_the_reference(family, kv_dtype, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **FAMILIES[family]).path
    expected = reference_logits(path, IDS)
    with Engine.load(path, shield="none", kv_dtype=kv_dtype, threads=1) as engine:
        got = engine.forward(IDS)
    spread = expected.std()
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.03 * spread
