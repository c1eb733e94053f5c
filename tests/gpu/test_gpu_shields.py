"""On one device a shield changes no bit of the logits of an integer cache."""

import numpy as np
import pytest

from tests.engine.test_shields_bit_equal import SHAPES, SHIELDS, logits
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu

INT4_SHAPES = ("llama", "head-dim-64", "gemma3-one-kv-head")


def on_device(path, **fields):
    return logits(path, device="cuda", **fields)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_shielded_logits_are_bit_equal_to_plain_ones(shape, shield, restore, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    plain = on_device(path, shield="none")
    assert np.array_equal(plain, on_device(path, shield=shield, restore=restore))


@pytest.mark.parametrize("shape", INT4_SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_an_int4_cache_is_bit_equal_under_every_shield(shape, shield, restore, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    plain = on_device(path, shield="none", kv_dtype="int4")
    assert np.array_equal(plain, on_device(path, shield=shield, restore=restore, kv_dtype="int4"))


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_shields_are_bit_equal_for_other_integer_weights(quant, tmp_path):
    path = make_tiny_model(tmp_path, quant).path
    plain = on_device(path, shield="none")
    assert np.array_equal(plain, on_device(path, shield="permute+seal"))


def test_sealing_changes_no_bit_of_a_float_cache(tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    plain = on_device(path, shield="none", kv_dtype="fp16")
    assert np.array_equal(plain, on_device(path, shield="seal", kv_dtype="fp16"))


@pytest.mark.parametrize("adapters", [1, 3])
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_shields_are_bit_equal_with_adapters(adapters, shield, restore, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    plain = on_device(path, adapters=adapters, shield="none")
    assert not np.array_equal(plain, on_device(path, shield="none"))
    shielded = on_device(path, adapters=adapters, shield=shield, restore=restore)
    assert np.array_equal(plain, shielded)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adapters", [0, 2])
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_the_device_and_the_cpu_agree(shape, adapters, kv_dtype, tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1", **SHAPES[shape]).path
    fields = {"adapters": adapters, "shield": "none", "kv_dtype": kv_dtype}
    cpu, device = logits(path, **fields), on_device(path, **fields)
    # Sums in another order move an activation's code by one at most here and there.
    assert np.sqrt(np.mean((cpu - device) ** 2)) < 0.02 * cpu.std()


def test_two_runs_on_one_device_are_bit_equal(tmp_path):
    path = make_tiny_model(tmp_path, "Q4_1").path
    assert np.array_equal(on_device(path, shield="seal"), on_device(path, shield="seal"))
