"""Several sessions open at once: rows, keys, ends, and one forward pass for all of them."""

import time

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.errors import TEE_DIED, CapacityError, EngineError, InputError, TeeDiedError
from tests.engine.dead_tee import kill_tee
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(3).integers(3, 250, 200)]
SHIELDS = [
    {"shield": "none"},
    {"shield": "seal"},
    {"shield": "permute+seal", "restore": "folded"},
    {"shield": "permute+seal", "restore": "tee"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize("fields", SHIELDS)
@pytest.mark.parametrize("all_logits", [False, True])
def test_a_batch_gives_each_session_the_bits_it_gets_alone(model, fields, all_logits):
    prompts = [IDS[:40], IDS[40:41], IDS[41:90], IDS[90:97]]
    with Engine.load(model, threads=2, prefill_chunk_tokens=16, **fields) as engine:
        alone = []
        for ids in prompts:
            with engine.open_session() as session:
                first = session.feed(ids, all_logits=all_logits)
                alone.append((first, session.feed([7])))
        sessions = [engine.open_session() for _ in prompts]
        prefill = feed_batch(list(zip(sessions, prompts, strict=True)), all_logits=all_logits)
        decode = feed_batch([(session, [7]) for session in sessions])
        for got, more, (first, second) in zip(prefill, decode, alone, strict=True):
            assert np.array_equal(got, first)
            assert np.array_equal(more, second)
        assert [session.tokens for session in sessions] == [[*ids, 7] for ids in prompts]


def test_forks_of_one_session_go_different_ways_in_one_batch(model):
    with Engine.load(model, threads=2, shield="seal") as engine:
        expected = [engine.forward([*IDS[:40], *way])[-1:] for way in ([1, 2, 3], [4], [1, 9])]
        session = engine.open_session()
        session.feed(IDS[:40])
        forks = [session, session.fork(), session.fork()]
        got = feed_batch(list(zip(forks, ([1, 2, 3], [4], [1, 9]), strict=True)))
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_batch_crosses_into_the_tee_once_a_layer(model):
    with Engine.load(model, threads=1, shield="permute+seal", restore="tee") as engine:
        sessions = [engine.open_session() for _ in range(5)]
        before = engine.sessions.tee_crossings
        feed_batch([(session, IDS[:3]) for session in sessions])
        assert engine.sessions.tee_crossings - before == engine.model.n_layers


def test_an_open_session_and_the_conversation_leave_each_other_alone(model):
    with Engine.load(model, threads=1, cache_tokens=2048) as engine:
        expected = "".join(engine.generate("hello there", max_tokens=20))
        logits = engine.forward(IDS[:30])
        engine.reset()
        mine = engine.open_session()
        mine.feed(IDS[:29])
        assert "".join(engine.generate("hello there", max_tokens=20)) == expected
        engine.reset()
        assert mine.tokens == IDS[:29]
        assert np.array_equal(mine.feed(IDS[29:30])[0], logits[-1])


def test_each_session_has_a_key_of_its_own(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        sessions = [engine.open_session() for _ in range(3)]
        feed_batch([(session, IDS[:5]) for session in sessions])
        dump = engine.dump_device_memory()
        assert len(dump.sessions()) == 3
        assert len(set(dump.headers()["epoch"].tolist())) == 3
        rows = [dump.rows(0, "v", session).tobytes() for session in dump.sessions()]
        assert len(set(rows)) == 3


def test_key_slots_run_out_with_a_clear_error_and_come_back(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        sessions = [engine.open_session() for _ in range(64)]
        with pytest.raises(CapacityError, match="64 key slots are all in use: close a session"):
            engine.open_session()
        sessions[5].close()
        assert engine.open_session().feed([1]).shape[0] == 1


def test_pages_run_out_with_a_clear_error_and_nobody_loses_a_row(model):
    with Engine.load(model, threads=1, context_tokens=64, rows_per_page=16) as engine:
        first, second = engine.open_session(), engine.open_session()
        feed_batch([(first, IDS[:32]), (second, IDS[:16])])
        assert engine.sessions.free_pages == 1
        with pytest.raises(EngineError, match="the KV cache is full"):
            feed_batch([(first, [1]), (second, [1])])
        assert (first.tokens, second.tokens) == (IDS[:32], IDS[:16])
        first.close()
        assert engine.sessions.free_pages == 3
        assert np.array_equal(second.feed([1])[0], engine.forward([*IDS[:16], 1])[-1])


def test_a_cache_smaller_than_a_context_is_refused(model):
    with pytest.raises(InputError, match="cache_tokens=63 do not hold one context of 64"):
        Engine.load(model, shield="none", context_tokens=64, cache_tokens=63)


@pytest.mark.parametrize("end", ["reset_all", "close", "kill"])
def test_every_session_is_wiped_at_the_end(model, end):
    with Engine.load(model, threads=1, shield="seal") as engine:
        sessions = [engine.open_session() for _ in range(3)]
        feed_batch([(session, IDS[:20]) for session in sessions])
        list(engine.generate("hello there", max_tokens=3))
        if end == "kill":
            kill_tee(engine)
            deadline = time.monotonic() + 10
            while engine.dump_device_memory().pages and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            getattr(engine, end)()
        assert all(session.closed for session in sessions)
        assert engine.dump_device_memory().pages == b""


def test_a_dead_tee_stops_a_batch_before_its_first_row(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        sessions = [engine.open_session() for _ in range(2)]
        feed_batch([(session, IDS[:20]) for session in sessions])
        kill_tee(engine)
        with pytest.raises(TeeDiedError, match=TEE_DIED):
            feed_batch([(session, [1]) for session in sessions])
        assert engine.dump_device_memory().pages == b""
        assert engine.open_session().feed([1]).shape[0] == 1


def test_a_tee_that_dies_between_layers_takes_the_whole_batch(model):
    with Engine.load(model, threads=1, shield="permute", restore="tee") as engine:
        restore = engine._tee.restore

        def restore_then_die(layer, n_tokens):
            restore(layer, n_tokens)
            kill_tee(engine)

        engine._tee.restore = restore_then_die
        sessions = [engine.open_session() for _ in range(2)]
        with pytest.raises(TeeDiedError):
            feed_batch([(session, IDS[:9]) for session in sessions])
        assert all(session.closed for session in sessions)
        assert engine.dump_device_memory().pages == b""


def test_wrong_batches_are_refused_and_change_nothing(model):
    with (
        Engine.load(model, threads=1, shield="none") as engine,
        Engine.load(model, threads=1, shield="none") as other,
    ):
        session, second = engine.open_session(), engine.open_session()
        session.feed(IDS[:4])
        for feeds, error, message in (
            ([], InputError, "no sessions"),
            ([(session, [1]), (session, [2])], InputError, "twice"),
            ([(session, [1]), (second, [])], InputError, "no tokens"),
            ([(session, [1]), (second, [10**6])], InputError, "token id 1000000"),
            ([(session, [1]), (other.open_session(), [1])], InputError, "different engines"),
        ):
            with pytest.raises(error, match=message):
                feed_batch(feeds)
        second.close()
        with pytest.raises(EngineError, match="the session is closed"):
            feed_batch([(session, [1]), (second, [1])])
        assert session.tokens == IDS[:4]


def test_the_native_batch_names_the_argument_that_is_wrong(model):
    with Engine.load(model, threads=1, shield="none") as engine:
        decoder, session = engine._decoder, engine.open_session()._native
        one = np.array([1], np.int32)
        for sessions, ids, message in (
            ([session], [], "1 sessions and 0 token_ids"),
            ([], [], "count=0"),
            ([None], [one], r"sessions\[0\] is None"),
            ([session], [np.zeros((1, 1), np.int32)], r"token_ids\[0\] is not a non-empty vector"),
            ([session], [np.zeros(0, np.int32)], r"token_ids\[0\] is not a non-empty vector"),
            ([session], [np.array([-1], np.int32)], "token id -1"),
        ):
            with pytest.raises(ValueError, match=message):
                decoder.forward_batch(sessions, ids)
        with pytest.raises(TypeError):
            decoder.forward_batch([session], [np.array([1.5])])
        assert session.length == 0
