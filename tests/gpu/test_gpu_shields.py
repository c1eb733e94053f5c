"""On one device a shield changes no bit of the logits of an integer cache."""

import numpy as np
import pytest

from tests.engine.test_shields_bit_equal import SHIELDS
from tests.gpu.device_logits import (
    SAMPLED_SHAPES,
    check_that_the_cpu_agrees,
    on_device,
    plain,
    sampled,
)

pytestmark = pytest.mark.gpu

INT4_SHAPES = sampled(
    ("llama", "head-dim-64", "gemma3-one-kv-head"), ("llama", "gemma3-one-kv-head")
)


@pytest.mark.parametrize("shape", SAMPLED_SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_shielded_logits_are_bit_equal_to_plain_ones(shape, shield, restore, model_of):
    shielded = on_device(model_of(shape), shield=shield, restore=restore)
    assert np.array_equal(plain(model_of(shape)), shielded)


@pytest.mark.parametrize("shape", INT4_SHAPES)
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_an_int4_cache_is_bit_equal_under_every_shield(shape, shield, restore, model_of):
    shielded = on_device(model_of(shape), shield=shield, restore=restore, kv_dtype="int4")
    assert np.array_equal(plain(model_of(shape), kv_dtype="int4"), shielded)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_shields_are_bit_equal_for_other_integer_weights(quant, model_of):
    path = model_of("llama", quant)
    assert np.array_equal(plain(path), on_device(path, shield="permute+seal"))


def test_sealing_changes_no_bit_of_a_float_cache(model_of):
    path = model_of("llama")
    sealed = on_device(path, shield="seal", kv_dtype="fp16")
    assert np.array_equal(plain(path, kv_dtype="fp16"), sealed)


@pytest.mark.parametrize("shape", SAMPLED_SHAPES)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_the_device_and_the_cpu_agree(shape, kv_dtype, model_of):
    fields = {"shield": "none", "kv_dtype": kv_dtype}
    check_that_the_cpu_agrees(model_of(shape), plain(model_of(shape), **fields), **fields)


def test_two_runs_on_one_device_are_bit_equal(model_of):
    path = model_of("llama")
    assert np.array_equal(on_device(path, shield="seal"), on_device(path, shield="seal"))
