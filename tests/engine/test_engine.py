"""Engine.load, generate and forward: what a caller gets, and what a wrong call says."""

import ctypes

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import InputError
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with Engine.load(model, threads=1) as engine:
        yield engine


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shield": "armour"}, "unknown shield 'armour'"),
        ({"threads": 0}, "threads=0"),
        ({"threads": True}, "threads=True"),
        ({"kv_dtype": "int3"}, "unknown kv_dtype 'int3'"),
        ({"restore": "never"}, "unknown restore"),
        ({"context_tokens": 10**6}, "context_tokens=1000000"),
        ({"rows_per_page": 7}, "rows_per_page=7"),
        ({"colour": "red"}, "unknown engine option 'colour'"),
    ],
)
def test_wrong_options_name_themselves(model, fields, message):
    with pytest.raises(InputError, match=message):
        Engine.load(model, **fields)


def test_without_a_cuda_device_one_line_says_so(model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    with pytest.raises(InputError, match=r"device 'cuda': .*; use device='cpu'$") as raised:
        Engine.load(model, device="cuda")
    assert "\n" not in str(raised.value)


def test_a_missing_cuda_driver_is_named():
    cuda = pytest.importorskip("ptmo_secure._cuda", exc_type=ImportError)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert cuda.devices() == (0, "no CUDA driver is installed")
    else:
        pytest.skip("a CUDA driver is installed")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activations": "fp32"}, "activations='int8'"),
        ({"kv_dtype": "fp32"}, "no fp32 cache: use kv_dtype 'int8', 'int4' or 'fp16'"),
    ],
)
def test_what_a_cuda_device_cannot_do_is_named(model, fields, message):
    with pytest.raises(InputError, match=message):
        Engine.load(model, device="cuda", **fields)


def test_empty_prompt_is_refused(engine):
    for empty in ("", "   \n"):
        with pytest.raises(InputError, match="empty"):
            engine.generate(empty)


def test_prompt_longer_than_the_context_names_both_lengths(model):
    with (
        Engine.load(model, threads=1, context_tokens=32) as engine,
        pytest.raises(InputError, match="the context holds 32"),
    ):
        engine.generate("word " * 200)


def test_forward_refuses_more_tokens_than_the_context(model):
    with Engine.load(model, threads=1, context_tokens=32) as engine:
        assert engine.forward([1] * 32).shape == (32, engine.model.vocab_size)
        with pytest.raises(InputError, match="context of 32"):
            engine.forward([1] * 33)


def test_generation_ends_at_the_context(model):
    with Engine.load(model, threads=1, context_tokens=64) as engine:
        list(engine.generate("hi", max_tokens=1000))
        stats = engine.last_run
        if stats.finish_reason == "length":
            assert stats.prompt_tokens + stats.decode_tokens == 64


def test_greedy_generation_repeats_itself(engine):
    first = "".join(engine.generate("tell me more", max_tokens=20))
    engine.reset()
    assert "".join(engine.generate("tell me more", max_tokens=20)) == first


def test_a_seed_repeats_a_sampled_answer_and_another_changes_it(engine):
    def answer(seed):
        sampling = SamplingParams(temperature=1.5, seed=seed)
        return "".join(engine.generate("tell me more", max_tokens=30, sampling=sampling))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_reusing_the_shared_prefix_changes_no_token(engine):
    turns = [
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "second question"},
    ]
    engine.reset()
    fresh = "".join(engine.generate(turns, max_tokens=16))
    engine.reset()
    list(engine.generate(turns[:1], max_tokens=4))
    continued = "".join(engine.generate(turns, max_tokens=16))
    assert engine.last_run.prefilled_tokens < engine.last_run.prompt_tokens
    assert continued == fresh


def test_stop_string_ends_the_answer_before_itself(engine):
    whole = "".join(engine.generate("go on", max_tokens=40))
    assert len(whole) > 6
    stop = whole[3:6]
    cut = "".join(engine.generate("go on", max_tokens=40, stop=[stop]))
    assert cut == whole[: whole.index(stop)]


def test_max_tokens_bounds_the_answer(engine):
    list(engine.generate("go on", max_tokens=3))
    assert engine.last_run.decode_tokens <= 3


@pytest.mark.parametrize("max_tokens", [0, -1, 2.5, True])
def test_wrong_max_tokens_is_refused(engine, max_tokens):
    with pytest.raises(InputError, match="max_tokens"):
        engine.generate("hi", max_tokens=max_tokens)


def test_unknown_adapter_is_refused(engine):
    with pytest.raises(InputError, match="unknown adapter 'personal'"):
        engine.generate("hi", adapters=["personal"])


def test_dump_rows_are_the_rows_fed(engine):
    engine.forward([3, 4, 5])
    dump = engine.dump_device_memory()
    assert dump.rows(0, "v").shape == (3, engine.model.n_kv_heads, engine.model.head_dim)
    assert len(dump.layout.addresses) == 1
    assert dump.headers()["length"].tolist() == [3]
    with pytest.raises(InputError):
        dump.rows(99, "v")


def test_sequence_numbers_grow_over_a_truncation(engine):
    session = engine.start_session()
    session.feed([1, 2, 3, 4])
    session.truncate(2)
    session.feed([5])
    numbers = engine.dump_device_memory().sequence_numbers()[0]
    assert numbers[:3].tolist() == [0, 1, 4]
    assert numbers[3] == 0


def test_two_sealed_sessions_write_different_ciphertext(engine):
    engine.forward([3, 4, 5])
    first = engine.dump_device_memory()
    engine.forward([3, 4, 5])
    second = engine.dump_device_memory()
    at = first.layout.data_offset
    assert first.pages[at:] != second.pages[at:]
    assert not np.array_equal(first.headers()["epoch"], second.headers()["epoch"])


def test_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.gguf"):
        Engine.load("/nowhere.gguf")
