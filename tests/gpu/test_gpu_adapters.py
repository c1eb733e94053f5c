"""LoRA adapters on a device: the CPU's sums, no bit changed by a shield, sets of their own."""

import numpy as np
import pytest

from tests.engine.adapter_checks import (
    IDS,
    check_that_a_swap_equals_a_fresh_session,
    check_that_forks_go_on_under_different_adapters,
    check_that_one_pass_equals_each_session_alone,
    check_that_requests_together_answer_as_alone,
)
from tests.engine.test_adapters import ROOT_KEY, with_adapters
from tests.engine.test_saved_session import MORE, one_by_one
from tests.engine.test_shields_bit_equal import SHIELDS
from tests.gpu.device_logits import (
    SAMPLED_SHAPES,
    check_that_the_cpu_agrees,
    on_device,
    plain,
    sampled,
)

pytestmark = pytest.mark.gpu

PERMUTED = [case for case in SHIELDS if "permute" in case[0]]
PERMUTED_FIELDS = [{"shield": shield, "restore": restore} for shield, restore in PERMUTED]
FOLDED = [fields for fields in PERMUTED_FIELDS if fields["restore"] == "folded"]


@pytest.mark.parametrize("shape", SAMPLED_SHAPES)
@pytest.mark.parametrize("adapters", sampled((1, 3), (3,)))
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_shields_are_bit_equal_with_adapters(shape, adapters, shield, restore, model_of):
    path = model_of(shape)
    expected = plain(path, adapters=adapters)
    assert not np.array_equal(expected, plain(path))
    shielded = on_device(path, adapters=adapters, shield=shield, restore=restore)
    assert np.array_equal(expected, shielded)


@pytest.mark.parametrize("shape", SAMPLED_SHAPES)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_the_device_and_the_cpu_agree_with_adapters(shape, kv_dtype, model_of):
    fields = {"adapters": 2, "shield": "none", "kv_dtype": kv_dtype}
    check_that_the_cpu_agrees(model_of(shape), plain(model_of(shape), **fields), **fields)


@pytest.mark.parametrize("shape", sampled(("llama", "gemma3"), ("llama",)))
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
@pytest.mark.parametrize("fields", PERMUTED_FIELDS, ids=str)
def test_the_cpu_permutes_adapters_as_the_device_does(shape, kv_dtype, fields, model_of):
    fields = {**fields, "adapters": 3, "kv_dtype": kv_dtype}
    check_that_the_cpu_agrees(model_of(shape), on_device(model_of(shape), **fields), **fields)


@pytest.mark.parametrize("fields", sampled([{"shield": "none"}, *PERMUTED_FIELDS], FOLDED), ids=str)
@pytest.mark.parametrize(
    "check",
    [
        check_that_a_swap_equals_a_fresh_session,
        check_that_forks_go_on_under_different_adapters,
        check_that_one_pass_equals_each_session_alone,
    ],
)
def test_sessions_keep_to_their_adapters(check, fields, model_of):
    with with_adapters(model_of("llama"), 3, device="cuda", cache_tokens=1024, **fields) as engine:
        check(engine)


@pytest.mark.parametrize("fields", [{"shield": "seal"}, PERMUTED_FIELDS[-1]], ids=str)
def test_requests_of_a_batch_have_adapters_of_their_own(fields, model_of):
    with with_adapters(model_of("llama"), 3, device="cuda", cache_tokens=2048, **fields) as engine:
        check_that_requests_together_answer_as_alone(engine)


@pytest.mark.parametrize(("saver", "reader"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
@pytest.mark.parametrize("fields", [{"shield": "seal"}, *PERMUTED_FIELDS], ids=str)
def test_a_session_with_adapters_moves_between_a_device_and_the_cpu(
    saver, reader, fields, model_of, tmp_path
):
    fields = {**fields, "tee_debug_root_key": ROOT_KEY}
    with with_adapters(model_of("llama"), 2, device=saver, **fields) as engine:
        session = engine.start_session(["a0", "a1"])
        session.feed(IDS)
        session.save(tmp_path / "session")
        expected = one_by_one(session, MORE)
    with with_adapters(model_of("llama"), 2, device=reader, **fields) as engine:
        got = one_by_one(engine.resume(tmp_path / "session", ["a0", "a1"]), MORE)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.02 * expected.std()
    assert saver != reader or np.array_equal(got, expected)
