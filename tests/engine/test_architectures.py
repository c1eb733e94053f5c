"""Every supported architecture gives transformers' logits on a tiny seeded model."""

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
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


@pytest.mark.parametrize("family", ["llama", "qwen2-biases", "llama3-rope-scaling"])
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_integer_path_stays_close_to_the_reference(family, kv_dtype, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **FAMILIES[family]).path
    expected = reference_logits(path, IDS)
    with Engine.load(path, shield="none", kv_dtype=kv_dtype, threads=1) as engine:
        got = engine.forward(IDS)
    spread = expected.std()
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.03 * spread
