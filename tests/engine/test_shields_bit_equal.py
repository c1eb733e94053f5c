"""Invariant I5: at INT8 KV a shield or a thread count changes no bit of the logits."""

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from tests.peft_files import MODULES, some_adapter
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(7).integers(0, 250, 70)]
SHIELDS = [
    ("permute", "folded"),
    ("permute", "tee"),
    ("seal", "folded"),
    ("permute+seal", "folded"),
    ("permute+seal", "tee"),
]
ADAPTED = (tuple(MODULES), ("q", "k", "v"), ("o", "down"))  # linears of the adapters
SHAPES = {
    "llama": {},
    "qwen2": {"family": "qwen2"},
    "head-dim-64": {"n_heads": 3, "n_kv_heads": 1, "head_dim": 64, "d_model": 96},
    "llama3": {"rope_scaling": "llama3"},
    "qwen3": {"family": "qwen3", "head_dim": 32},
    "gemma3": {"family": "gemma3", "n_layers": 3, "sliding_period": 3, "tied": True},
    "gemma3-one-kv-head": {"family": "gemma3", "n_kv_heads": 1, "head_dim": 48, "tied": True},
}


def logits(path, threads=1, adapters=0, **fields):
    """Prefill, then decode five tokens one by one, with so many adapters stacked."""
    with Engine.load(path, threads=threads, **fields) as engine:
        names = [f"a{i}" for i in range(adapters)]
        for i, name in enumerate(names):
            weights = some_adapter(engine.model, (16, 5, 33)[i], i, ADAPTED[i], size=0.5)
            engine.add_adapter(name, weights)
        session = engine.start_session(names)
        prefill = session.feed(IDS, all_logits=True)
        return np.concatenate([prefill, *(session.feed([i]) for i in IDS[:5])])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_shielded_logits_are_bit_equal_to_plain_ones(shape, shield, restore, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    plain = logits(path, shield="none")
    shielded = logits(path, shield=shield, restore=restore, threads=2)
    assert np.array_equal(plain, shielded)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
@pytest.mark.parametrize("adapters", [1, 3])
def test_shielded_logits_with_adapters_are_bit_equal_to_plain_ones(
    shape, shield, restore, adapters, tmp_path
):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    plain = logits(path, adapters=adapters, shield="none")
    assert not np.array_equal(plain, logits(path, shield="none"))
    shielded = logits(path, adapters=adapters, shield=shield, restore=restore, threads=2)
    assert np.array_equal(plain, shielded)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_shields_are_bit_equal_for_other_integer_weights(quant, tmp_path):
    path = make_tiny_model(tmp_path, quant).path
    plain = logits(path, shield="none")
    assert np.array_equal(plain, logits(path, shield="permute+seal"))


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("adapters", [0, 1, 3])
def test_thread_count_changes_no_bit(threads, adapters, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    plain = logits(path, adapters=adapters, shield="none")
    assert np.array_equal(plain, logits(path, threads, adapters, shield="none"))


@pytest.mark.parametrize("shield", ["permute", "seal", "permute+seal"])
@pytest.mark.parametrize("shape", ["llama", "head-dim-64", "gemma3-one-kv-head"])
def test_an_int4_cache_is_bit_equal_under_every_shield(shield, shape, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    plain = logits(path, shield="none", kv_dtype="int4")
    assert np.array_equal(plain, logits(path, threads=2, shield=shield, kv_dtype="int4"))


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_sealing_changes_no_bit_at_any_kv_type(kv_dtype, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    plain = logits(path, shield="none", kv_dtype=kv_dtype)
    assert np.array_equal(plain, logits(path, shield="seal", kv_dtype=kv_dtype))


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_permuting_float_caches_only_reorders_sums(kv_dtype, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    plain = logits(path, shield="none", kv_dtype=kv_dtype)
    permuted = logits(path, shield="permute", kv_dtype=kv_dtype)
    # A reordered float sum moves integer activation codes by one at most here and there.
    assert np.sqrt(np.mean((plain - permuted) ** 2)) < 0.02 * plain.std()


@pytest.mark.parametrize("level", ["reference", "neon", "avx2", "avxvnni"])
def test_bit_equality_holds_at_lower_kernel_levels(level, tmp_path):
    import os
    import subprocess
    import sys

    path = make_tiny_model(tmp_path, "Q4_1").path
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import numpy as np\n"
        "from tests.engine.test_shields_bit_equal import logits\n"
        "from ptmo_secure import _native\n"
        "p = sys.argv[1]\n"
        "for n in (0, 3):\n"
        "    plain = logits(p, 1, n, shield='none')\n"
        "    same = np.array_equal(plain, logits(p, 2, n, shield='permute+seal'))\n"
        "    print(_native.kernel_level(), same)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), os.getcwd()],
        env={**os.environ, "PTMO_KERNEL_LEVEL": level},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "is not a level this CPU has" in done.stderr:
        pytest.skip(f"this CPU has no {level}")
    assert done.stdout.split() == [level, "True", level, "True"], done.stderr
