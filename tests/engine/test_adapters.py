"""An engine with adapters: right against merged weights, reused, swapped, stacked and forgotten."""

import numpy as np
import pytest

from ptmo_secure.engine.adapters import AdapterWeights, random_adapter
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.low_rank import LowRankPair, quantize_pair
from ptmo_secure.errors import EngineError, InputError, ModelFormatError
from tests.engine.adapter_checks import (
    IDS,
    check_that_a_swap_equals_a_fresh_session,
    check_that_forks_go_on_under_different_adapters,
)
from tests.engine.test_architectures import hf_logits
from tests.peft_files import MODULES, merge, some_adapter, write_adapter
from tests.tiny_models import make_tiny_model

FLOATS = {"shield": "none", "activations": "fp32", "kv_dtype": "fp32"}
ROOT_KEY = bytes(range(32))
FAMILIES = {
    "llama": {},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3", "head_dim": 32},
    "gemma3": {"family": "gemma3", "n_layers": 3, "sliding_period": 3, "tied": True},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, **fields):
    return Engine.load(model, **{"threads": 1, "shield": "none", "context_tokens": 192, **fields})


def with_adapters(model, count, **fields):
    engine = load(model, **fields)
    for i in range(count):
        roles = (tuple(MODULES), ("q", "k", "v", "o"), ("o", "up"))[i % 3]
        engine.add_adapter(f"a{i}", some_adapter(engine.model, (16, 5, 40)[i % 3], i, roles))
    return engine


# ---------------------------------------------------------------- the sum itself


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [1, 8, 64])
def test_logits_equal_those_of_the_merged_weights(family, rank, tmp_path):
    tiny = make_tiny_model(tmp_path, "Q4_1", **FAMILIES[family])
    with load(tiny.path, **FLOATS) as engine:
        weights = some_adapter(engine.model, rank, roles=tuple(MODULES))
        write_adapter(tmp_path / "adapter", weights)
        engine.load_adapter("mine", tmp_path / "adapter")
        got, base = engine.forward(IDS, ["mine"]), engine.forward(IDS)
    expected = hf_logits(merge(tiny.reference(), weights), IDS)
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(got - expected).max() < 2e-4 * scale
    assert np.abs(base - expected).max() > 1e-2 * scale


def test_stacked_adapters_add_up(tmp_path):
    tiny = make_tiny_model(tmp_path, "F32")
    hf = tiny.reference()
    with load(tiny.path, **FLOATS) as engine:
        for i in range(8):
            weights = some_adapter(engine.model, 3 * i + 1, i, list(MODULES)[: i % 7 + 1], size=0.1)
            engine.add_adapter(f"a{i}", weights)
            merge(hf, weights)
        got = engine.forward(IDS, [f"a{i}" for i in range(8)])
    expected = hf_logits(hf, IDS)
    assert np.abs(got - expected).max() < 2e-4 * np.abs(expected).max()


def test_integer_adapters_are_as_close_to_floats_as_the_base_model(tmp_path):
    tiny = make_tiny_model(tmp_path, "Q4_1")

    def error(adapters):
        with load(tiny.path) as engine, load(tiny.path, **FLOATS) as floats:
            for e in (engine, floats):
                for i in range(3):
                    e.add_adapter(f"a{i}", some_adapter(e.model, 16, i, tuple(MODULES)))
            got, want = engine.forward(IDS, adapters), floats.forward(IDS, adapters)
        return np.sqrt(np.mean((got - want) ** 2)) / want.std()

    base = error([])
    assert error(["a0"]) < 2 * base
    assert error(["a0", "a1", "a2"]) < 2 * base


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_the_size_of_a_factor_costs_no_precision(size):
    pair = some_pair(24)
    a = pair.a * np.float32(size)
    a[3] *= 1e-6  # and neither does a small rank beside large ones
    b = pair.b.copy()
    b[:, 3] *= 1e6
    tensors = quantize_pair(LowRankPair(a, b / np.float32(size), pair.scale))
    update = tensors.b.dequantize()[:, :24] @ tensors.a.dequantize() * tensors.scale
    exact = pair.b.astype(np.float64) @ pair.a.astype(np.float64) * pair.scale
    assert np.sqrt(np.mean((update - exact) ** 2)) < 0.01 * exact.std()


def some_pair(rank):
    random = np.random.default_rng(rank)
    return LowRankPair(
        random.standard_normal((rank, 64)).astype(np.float32),
        random.standard_normal((48, rank)).astype(np.float32),
        0.5,
    )


def test_quantised_codes_and_scales_are_what_the_kernels_take():
    tensors = quantize_pair(some_pair(17))
    assert tensors.a.codes.shape == (17, 64) and tensors.a.scales.shape == (17, 2)
    assert tensors.b.codes.shape == (48, 32) and tensors.b.scales.shape == (48, 2)
    for part in (tensors.a, tensors.b):
        assert np.abs(part.codes.astype(int)).max() == 127
        assert part.scales.dtype == np.float16
    assert not tensors.b.codes[:, 17:].any()


def test_rows_of_zeros_and_scales_beyond_float32():
    pair = LowRankPair(np.zeros((2, 64), np.float32), np.zeros((48, 2), np.float32), 1.0)
    tensors = quantize_pair(pair)
    assert not tensors.a.codes.any() and not tensors.b.codes.any() and tensors.scale == 1.0
    huge = np.full((2, 64), 1e38, np.float32)
    with pytest.raises(ModelFormatError, match="too large"):
        quantize_pair(LowRankPair(huge, np.full((48, 2), 1e38, np.float32), 1.0))


def test_a_scale_multiplies_the_update(tmp_path):
    tiny = make_tiny_model(tmp_path, "F32")
    with load(tiny.path, **FLOATS) as engine:
        weights = some_adapter(engine.model, 8)
        engine.add_adapter("twice", weights, scale=2.0)
        engine.add_adapter("none", weights, scale=0.0)
        assert engine.adapters["twice"].scale == 2.0
        got, nothing = engine.forward(IDS, ["twice"]), engine.forward(IDS, ["none"])
        assert np.array_equal(nothing, engine.forward(IDS))
    expected = hf_logits(merge(tiny.reference(), weights.scaled(2.0)), IDS)
    assert np.abs(got - expected).max() < 2e-4 * np.abs(expected).max()


# ---------------------------------------------------------------- loading


def test_loaded_adapters_are_listed_with_rank_targets_and_bytes(model, tmp_path):
    with load(model) as engine:
        assert engine.adapters == {}
        weights = some_adapter(engine.model, 8, roles=("q", "down"))
        write_adapter(tmp_path, weights)
        info = engine.load_adapter("a.b-c_1", tmp_path)
        assert engine.adapters == {"a.b-c_1": info}
        assert (info.rank, info.targets, info.scale) == (8, ("q", "down"), 1.0)
        # Panels of 16 rows: A 544 B for each 32 columns, B 160 B; both in whole lines; two layers.
        assert info.bytes == 2 * (2 * 544 + 4 * 160 + 26 * 64 + 4 * 160)
        engine.unload_adapter("a.b-c_1")
        assert engine.adapters == {}


def test_a_load_that_fails_leaves_nothing_behind(model, tmp_path):
    with load(model) as engine:
        write_adapter(tmp_path, some_adapter(engine.model, 8), use_dora=True)
        before = engine.forward(IDS)
        with pytest.raises(ModelFormatError, match="use_dora"):
            engine.load_adapter("bad", tmp_path)
        other = SmallModel()
        with pytest.raises(InputError, match="do not fit"):
            engine.add_adapter("bad", some_adapter(other, 8))
        assert engine.adapters == {}
        assert np.array_equal(engine.forward(IDS), before)
        engine.add_adapter("bad", some_adapter(engine.model, 8))  # the name is free


class SmallModel:
    n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff = 1, 2, 1, 16, 32, 64


def pair(a_shape, b_shape, dtype=np.float32, scale=1.0, fill=0.5):
    return LowRankPair(np.full(a_shape, fill, dtype), np.full(b_shape, fill, dtype), scale)


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("layers.2.q", pair((8, 64), (64, 8)), "not a linear layer"),
        ("layers.0.x", pair((8, 64), (64, 8)), "not a linear layer"),
        ("head", pair((8, 64), (64, 8)), "not a linear layer"),
        ("layers.0.q", pair((65, 64), (64, 65)), "1..64"),
        ("layers.0.q", pair((0, 64), (64, 0)), "1..64"),
        ("layers.0.q", pair((8, 63), (64, 8)), "do not fit"),
        ("layers.0.q", pair((8, 64), (63, 8)), "do not fit"),
        ("layers.0.q", pair((8, 64), (64, 7)), "do not fit"),
        ("layers.0.q", pair((64,), (64, 8)), "1..64"),
        ("layers.0.q", pair((8, 64), (64, 8), np.float64), "not float32"),
        ("layers.0.q", pair((8, 64), (64, 8), fill=np.nan), "not finite"),
        ("layers.0.q", pair((8, 64), (64, 8), scale=np.inf), "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, name, bad, reason):
    with load(model) as engine, pytest.raises(InputError, match=reason):
        engine.add_adapter("x", AdapterWeights({name: bad}))


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a/b", "x" * 65, "ü\n", 3, None])
def test_names_are_short_and_plain(model, name):
    with load(model) as engine, pytest.raises(InputError, match="adapter name"):
        engine.add_adapter(name, some_adapter(engine.model, 1))


def test_mistakes_in_naming_adapters_are_told(model):
    with with_adapters(model, 9) as engine:
        weights = some_adapter(engine.model, 1)
        with pytest.raises(InputError, match="'a0' is loaded already"):
            engine.add_adapter("a0", weights)
        for scale in (np.nan, np.inf, "2", True, None):
            with pytest.raises(InputError, match="scale"):
                engine.add_adapter("x", weights, scale=scale)
        with pytest.raises(InputError, match="unknown adapter 'x': a0, a1"):
            engine.generate("hi", adapters=["x"])
        with pytest.raises(InputError, match="is not a list of names"):
            engine.generate("hi", adapters="a0")
        with pytest.raises(InputError, match="twice"):
            engine.forward(IDS, ["a0", "a1", "a0"])
        with pytest.raises(InputError, match="at most 8"):
            engine.start_session([f"a{i}" for i in range(9)])
        with pytest.raises(InputError, match="unknown adapter 'x'"):
            engine.unload_adapter("x")
        with pytest.raises(InputError, match="changes nothing"):
            engine.add_adapter("x", AdapterWeights({}))
    with pytest.raises(EngineError, match="closed"):
        engine.add_adapter("x", weights)


def test_an_unloaded_adapter_serves_those_who_have_it(model):
    with with_adapters(model, 1) as engine:
        expected = "".join(engine.generate("hello", 8, adapters=["a0"]))
        engine.reset()
        pieces = engine.generate("hello", 8, adapters=["a0"])
        begun = next(pieces)
        engine.unload_adapter("a0")
        assert begun + "".join(pieces) == expected
        with pytest.raises(InputError, match="unknown adapter 'a0': no adapter is loaded"):
            engine.generate("hello", 8, adapters=["a0"])
        engine.add_adapter("a0", some_adapter(engine.model, 16, 5))  # another of the same name
        session = engine.session
        engine.forward(IDS, ["a0"])
        assert session.closed  # its rows are not those of the new one


# ---------------------------------------------------------------- sessions


class Talk:
    """A conversation of short turns; `reused` tells whether the last turn kept earlier rows."""

    def __init__(self, engine):
        self.engine, self.turns = engine, []

    def say(self, adapters, **fields):
        self.turns.append({"role": "user", "content": "hello"})
        answer = "".join(self.engine.generate(self.turns, 2, adapters=adapters, **fields))
        self.turns.append({"role": "assistant", "content": answer})
        run = self.engine.last_run
        return run.prefilled_tokens < run.prompt_tokens


def test_rows_are_reused_under_equal_sets_alone(model):
    with with_adapters(model, 2) as engine:
        talk = Talk(engine)
        assert not talk.say(["a0"])
        assert talk.say(["a0"])
        assert not talk.say(["a1"])
        assert talk.say(["a1"])
        assert not talk.say([])
        assert not talk.say(["a0", "a1"])
        assert talk.say(["a0", "a1"])
        assert not talk.say(["a1", "a0"])  # another order, another rounding


def test_a_swap_computes_the_rows_anew_and_equals_a_fresh_session(model):
    with with_adapters(model, 2, shield="seal") as engine:
        check_that_a_swap_equals_a_fresh_session(engine)


def swapped(engine, *, keep_kv):
    """A session whose first rows are a0's and whose later ones are a1's."""
    session = engine.start_session(["a0"])
    session.feed(IDS[:40])
    before = engine.dump_device_memory().rows(0, "k")
    session.use_adapters(["a1"], keep_kv=keep_kv)
    kept = np.array_equal(engine.dump_device_memory().rows(0, "k"), before)
    return session, kept, session.feed(IDS[40:])


def test_kept_rows_stay_and_later_ones_use_the_new_set(model):
    with with_adapters(model, 2) as engine:
        first, second = (engine.forward(IDS, [name])[-1:] for name in ("a0", "a1"))
        session, kept, logits = swapped(engine, keep_kv=False)
        assert not kept and np.array_equal(logits, second)
        session, kept, logits = swapped(engine, keep_kv=True)
        assert kept and not np.array_equal(logits, second) and not np.array_equal(logits, first)
        # Told again without keep_kv, the first 40 rows are not a1's.
        session.use_adapters(["a1"])
        assert np.array_equal(session.feed([7]), engine.forward([*IDS, 7], ["a1"])[-1:])


def test_generate_keeps_rows_of_other_adapters_when_told(model):
    with with_adapters(model, 2) as engine:
        talk = Talk(engine)
        talk.say(["a0"])
        assert talk.say(["a1"], keep_kv=True)
        assert talk.say([], keep_kv=True)
        assert not talk.say(["a1"])


def test_forks_may_go_on_under_different_adapters(model):
    with with_adapters(model, 2, shield="seal") as engine:
        check_that_forks_go_on_under_different_adapters(engine)


def test_a_full_cache_refuses_a_fork_other_adapters_and_changes_nothing(model):
    with with_adapters(model, 1, context_tokens=64) as engine:
        trunk = engine.start_session()
        trunk.feed(IDS)
        branch = trunk.fork()
        with pytest.raises(EngineError, match="full"):
            branch.use_adapters(["a0"], keep_kv=True)
        assert branch.adapters == () and branch.adapter_tag == 0 and branch.tokens == IDS


def test_a_saved_session_opens_under_its_own_adapters_alone(model, tmp_path):
    with with_adapters(model, 2, shield="seal", tee_debug_root_key=ROOT_KEY) as engine:
        session = engine.start_session(["a0", "a1"])
        session.feed(IDS)
        session.save(tmp_path / "session")
        expected = session.feed([5])
        for names in ([], ["a0"], ["a1", "a0"]):
            with pytest.raises(InputError, match="saved with adapters that were not named"):
                engine.resume(tmp_path / "session", names)
            assert engine.session is session
        resumed = engine.resume(tmp_path / "session", ["a0", "a1"])
        assert np.array_equal(resumed.feed([5]), expected)
        resumed.use_adapters(["a0"], keep_kv=True)
        resumed.feed([6])
        with pytest.raises(InputError, match="several adapter sets"):
            resumed.save(tmp_path / "mixed")
        plain = engine.start_session()
        plain.feed(IDS)
        plain.save(tmp_path / "plain")
        with pytest.raises(InputError, match="saved with no adapters"):
            engine.resume(tmp_path / "plain", ["a0"])


def test_a_random_adapter_fills_every_linear_of_the_model(model):
    with load(model) as engine:
        weights = random_adapter(engine.model, 16, seed=3)
        again = random_adapter(engine.model, 16, seed=3)
        assert all(np.array_equal(p.b, again.pairs[n].b) for n, p in weights.pairs.items())
        info = engine.add_adapter("r", weights)
        assert info.targets == tuple(MODULES) and info.rank == 16
        assert not np.array_equal(engine.forward(IDS, ["r"]), engine.forward(IDS))
