"""Keys that rotate: not a bit of the logits changes, by policy or on demand, in every shield."""

import random

import numpy as np
import pytest

from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.errors import EngineError, InputError
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.peft_files import some_adapter
from tests.tiny_models import make_tiny_model

SHIELDS = [
    ("seal", "folded"),
    ("permute", "folded"),
    ("permute", "tee"),
    ("permute+seal", "folded"),
    ("permute+seal", "tee"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, shield="seal", adapters=(), **fields):
    fields = {"threads": 1, "context_tokens": 192, "cache_tokens": 1024, **fields}
    engine = Engine.load(model, shield=shield, **fields)
    for i, name in enumerate(adapters):
        engine.add_adapter(name, some_adapter(engine.model, 8, i, ("q", "k", "v", "o")))
    return engine


# ------------------------------------------------------------------ the same bits


def random_life(engine, seed, rotate):
    """Feed, truncate, fork, swap adapters at random; return all logits. `rotate` may rotate."""
    rng = random.Random(seed)
    sessions = [engine.open_session(["a"]), engine.open_session()]
    out = []
    for _ in range(30):
        session = rng.choice(sessions)
        action = rng.choice(("feed", "feed", "step", "batch", "truncate", "fork", "swap"))
        if len(session.tokens) > 150:
            action = "truncate"
        if action == "feed":
            ids = [rng.randrange(250) for _ in range(rng.randrange(1, 40))]
            out.append(session.feed(ids, all_logits=True))
        elif action == "step":
            out.append(session.feed([rng.randrange(250)]))
        elif action == "batch":
            short = [s for s in sessions if len(s.tokens) < 190]
            out += feed_batch([(s, [rng.randrange(250)]) for s in short])
        elif action == "truncate":
            session.truncate(rng.randrange(len(session.tokens) + 1))
        elif action == "fork" and len(sessions) < 5:
            sessions.append(session.fork())
        elif action == "swap":
            session.use_adapters(rng.choice(([], ["a"], ["b", "a"])), keep_kv=rng.random() < 0.5)
        rotate(rng.random(), sessions)
    for session in sessions:
        out.append(session.feed([7, 8, 9], all_logits=True))
        session.close()
    return np.concatenate(out)


def rotations(engine):
    """What to do at each point: rotate everything, one session, or nothing."""

    def rotate(chance, sessions):
        if chance < 0.25:
            engine.rotate()
        elif chance < 0.5 and engine.config.sealed:
            sessions[int(chance * 1000) % len(sessions)].rotate()

    return rotate


def check_random_lives(model, seeds, shield, restore, **fields):
    with load(model, "none", "ab", **fields) as engine:
        expected = [random_life(engine, seed, lambda *_: None) for seed in seeds]
    with load(model, shield, "ab", restore=restore, **fields) as engine:
        for seed, logits in zip(seeds, expected, strict=True):
            assert np.array_equal(random_life(engine, seed, rotations(engine)), logits)
        counts = engine.stats()
        assert (counts["seal_keys_rotated"] > 5 * len(seeds)) == engine.config.sealed
        assert (counts["permutations_rotated"] > 3 * len(seeds)) == engine.config.permuted


@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
def test_logits_are_those_of_a_plain_engine_that_never_rotates(model, shield, restore):
    check_random_lives(model, [1, 2], shield, restore)


@pytest.mark.slow
@pytest.mark.parametrize(("shield", "restore"), SHIELDS)
@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_a_hundred_lives_are_those_of_a_plain_engine(model, shield, restore, kv_dtype):
    check_random_lives(model, range(10), shield, restore, kv_dtype=kv_dtype)


@pytest.mark.parametrize("shield", ["permute", "permute+seal"])
def test_an_int4_cache_is_moved_to_another_order_bit_for_bit(model, shield):
    check_random_lives(model, [3], shield, "folded", kv_dtype="int4")


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_sealing_a_float_cache_anew_changes_no_bit(model, kv_dtype):
    with load(model, "none", "ab", kv_dtype=kv_dtype) as engine:
        expected = random_life(engine, 4, lambda *_: None)
    with load(model, "seal", "ab", kv_dtype=kv_dtype) as engine:
        assert np.array_equal(random_life(engine, 4, rotations(engine)), expected)
        assert engine.stats()["seal_keys_rotated"] > 5


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_another_permutation_of_a_float_cache_only_reorders_sums(model, kv_dtype):
    ids = [int(i) for i in np.random.default_rng(2).integers(0, 250, 60)]
    with load(model, "none", kv_dtype=kv_dtype) as engine:
        plain = engine.forward(ids)[40:]
    with load(model, "permute", kv_dtype=kv_dtype) as engine:
        session = engine.start_session()
        session.feed(ids[:40])
        engine.rotate()
        moved = session.feed(ids[40:], all_logits=True)
    assert np.sqrt(np.mean((plain - moved) ** 2)) < 0.02 * plain.std()


@pytest.mark.parametrize("shape", [{"family": "qwen3", "head_dim": 32}, {"family": "qwen2"}])
def test_models_with_norms_and_biases_rotate_too(tmp_path, shape):
    path = make_tiny_model(tmp_path, "Q4_1", **shape).path
    with load(path, "none") as engine:
        expected = engine.forward(list(range(60)))[40:]
    with load(path, "permute+seal") as engine:
        session = engine.start_session()
        session.feed(list(range(40)))
        engine.rotate()
        assert np.array_equal(session.feed(list(range(40, 60)), all_logits=True), expected)


@pytest.mark.parametrize("shield", ["seal", "permute", "permute+seal"])
def test_a_stream_goes_on_across_rotations(model, shield):
    with load(model, shield) as engine:
        expected = answer_alone(engine, "hello there", 40)
        pieces = []
        for piece in engine.generate("hello there", 40):
            pieces.append(piece)
            if len(pieces) % 5 == 1:
                engine.rotate()
        assert len(pieces) > 10 and "".join(pieces) == expected
        turns = [{"role": "user", "content": "hello there"}]
        turns += [{"role": "assistant", "content": expected}, {"role": "user", "content": "more"}]
        "".join(engine.generate(turns, 4))
        assert engine.last_run.prefilled_tokens < engine.last_run.prompt_tokens  # rows served


def test_requests_together_answer_as_alone_while_keys_rotate(model):
    fields = {"rotate_after_tokens": 9}
    with load(model, "permute+seal", "ab", **fields) as engine:
        asked = [("hello " * (i + 1), [["a"], [], ["b", "a"]][i % 3]) for i in range(6)]
        expected = [answer_alone(engine, text, 12, adapters=names) for text, names in asked]
        with SteppedScheduler(engine, max_batch=3, max_step_tokens=10) as scheduler:
            requests = [scheduler.submit(text, 12, adapters=names) for text, names in asked]
            for step in range(10_000):
                if not scheduler.busy:
                    break
                scheduler.step()
                if step % 7 == 0:
                    engine.rotate()
            assert [request.result() for request in requests] == expected


def test_adapters_no_session_uses_are_permuted_anew_when_one_does(model):
    with load(model, "permute", "ab") as engine:
        expected = engine.forward([1, 2, 3], ["b"])
        session = engine.open_session(["a"])
        engine.unload_adapter("a")  # it goes on with it
        first = session.feed([4, 5, 6])
        session.truncate(0)
        engine.rotate()
        assert np.array_equal(session.feed([4, 5, 6]), first)
        assert np.array_equal(engine.forward([1, 2, 3], ["b"]), expected)
        engine.add_adapter("c", some_adapter(engine.model, 8, 1, ("q", "k", "v", "o")))
        assert np.array_equal(engine.forward([1, 2, 3], ["c"]), expected)  # the weights of "b"


def test_a_session_saved_after_a_rotation_opens_after_another(model, tmp_path):
    with load(model, "permute+seal") as engine:
        session = engine.start_session()
        session.feed(list(range(40)))
        engine.rotate()
        session.save(tmp_path / "saved")
        expected = session.feed([5])
        engine.rotate()
        resumed = engine.resume(tmp_path / "saved")
        assert np.array_equal(resumed.feed([5]), expected)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("tokens", [0, -1, True, 1.5, "9", 1 << 49])
def test_a_wrong_number_of_tokens_is_named(tokens):
    with pytest.raises(InputError, match="rotate_after_tokens="):
        EngineConfig(rotate_after_tokens=tokens)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), True, "9"])
def test_a_wrong_number_of_seconds_is_named(seconds):
    with pytest.raises(InputError, match="rotate_after_seconds="):
        EngineConfig(rotate_after_seconds=seconds)


@pytest.mark.parametrize("shield", ["none", "permute"])
@pytest.mark.parametrize("field", [{"rotate_after_tokens": 9}, {"rotate_after_seconds": 0.5}])
def test_a_policy_without_seal_keys_is_refused(shield, field):
    with pytest.raises(InputError, match=f"shield '{shield}' has no seal keys"):
        EngineConfig(shield=shield, **field)


def test_what_has_no_key_does_not_rotate(model):
    with load(model, "none") as engine:
        with pytest.raises(InputError, match="shield 'none' has no key"):
            engine.rotate()
        with pytest.raises(InputError, match="no seal key"):
            engine.open_session().rotate()
    with pytest.raises(EngineError, match="closed"):
        engine.rotate()
    with load(model, "permute") as engine:
        session = engine.open_session()
        with pytest.raises(InputError, match="no seal key"):
            session.rotate()
        session.close()
        with pytest.raises(EngineError, match="the session is closed"):
            session.rotate()
