"""QK-norm weights balanced for the cache: K evens out, q.k stays."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.tensors import FloatTensor
from ptmo_secure.engine.weights import balanced_qk_norms
from tests.tiny_models import make_tiny_model

HALF = 16
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 250, 50)]


def source_of(q_norm: np.ndarray, k_norm: np.ndarray, n_kv_heads: int = 2) -> Any:
    tensors = {"layers.0.q_norm": FloatTensor(q_norm), "layers.0.k_norm": FloatTensor(k_norm)}
    config = SimpleNamespace(n_kv_heads=n_kv_heads)
    return SimpleNamespace(tensor=tensors.__getitem__, config=config)


def test_a_power_of_two_per_rotary_pair_moves_from_k_to_q() -> None:
    rng = np.random.default_rng(1)
    q_norm = rng.normal(1.0, 0.3, 2 * HALF).astype(np.float32)
    k_norm = (rng.normal(size=2 * HALF) * np.exp(rng.uniform(-3, 3, 2 * HALF))).astype(np.float32)
    made = balanced_qk_norms(source_of(q_norm, k_norm), 0)
    q, k = (made[name].data.reshape(2, 2 * HALF) for name in ("q_norm", "k_norm"))
    assert np.array_equal(q[0], q[1])
    assert np.array_equal(k[0], k[1])
    factor = q[0] / q_norm
    assert np.array_equal(factor[:HALF], factor[HALF:])
    assert np.array_equal(np.exp2(np.rint(np.log2(factor))), factor)
    assert np.array_equal(k[0] * factor, k_norm)  # exactly: powers of two
    pairs = np.sqrt(np.mean(np.square(k[0].reshape(2, HALF)), axis=0))
    assert ((2**-0.5 <= pairs) & (pairs <= 2**0.5)).all()


def test_a_zero_weight_stays_zero() -> None:
    zero = np.zeros(2 * HALF, np.float32)
    made = balanced_qk_norms(source_of(np.ones(2 * HALF, np.float32), zero), 0)
    assert not made["k_norm"].data.any()
    assert np.isfinite(made["q_norm"].data).all()


def test_balancing_changes_no_bit_in_float_arithmetic_and_helps_an_int8_cache(
    tmp_path: Path,
) -> None:
    path = make_tiny_model(tmp_path, "F32", family="qwen3", n_kv_heads=2, head_dim=32).path
    spread = np.float32(2.0) ** np.random.default_rng(2).integers(-4, 5, HALF)
    uneven = np.tile(spread, 4)  # both halves of a pair alike: RoPE commutes with it

    def logits(k_factor: np.ndarray, **fields: Any) -> np.ndarray:
        with Engine.load(path, shield="none", activations="fp32", threads=1, **fields) as engine:
            for layer in range(2):
                norms = balanced_qk_norms(engine._source, layer)
                q, k = norms["q_norm"].data, norms["k_norm"].data
                engine._decoder.set_float(f"layers.{layer}.q_norm", q / k_factor)
                engine._decoder.set_float(f"layers.{layer}.k_norm", k * k_factor)
            return engine.forward(IDS)

    exact = logits(np.ones(4 * HALF, np.float32), kv_dtype="fp32")
    assert np.array_equal(exact, logits(uneven, kv_dtype="fp32"))
    balanced = logits(np.ones(4 * HALF, np.float32), kv_dtype="int8")
    unbalanced = logits(uneven, kv_dtype="int8")
    assert np.abs(balanced - exact).mean() < 0.5 * np.abs(unbalanced - exact).mean()
