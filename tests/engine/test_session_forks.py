"""Forked sessions: each goes on as if it had been alone, and they end together."""

import os
import signal
import time

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import EngineError
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(17).integers(0, 250, 41)]  # two pages, one of 9 rows
LEFT, RIGHT = [5, 9, 200, 31], [7, 77, 177]
SHIELDS = [
    {"shield": "none"},
    {"shield": "seal"},
    {"shield": "permute", "restore": "folded"},
    {"shield": "permute", "restore": "tee"},
    {"shield": "permute+seal"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def one_by_one(session, ids):
    return np.concatenate([session.feed([i]) for i in ids])


def alone(engine, ids):
    """Logits of `ids` after IDS in a session that was never forked."""
    session = engine.start_session()
    session.feed(IDS)
    return one_by_one(session, ids)


@pytest.mark.parametrize("fields", SHIELDS, ids=str)
def test_both_sides_of_a_fork_give_the_logits_of_a_session_of_their_own(model, fields):
    with Engine.load(model, threads=2, context_tokens=128, **fields) as engine:
        left, right = alone(engine, LEFT), alone(engine, RIGHT)
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        turns = [one_by_one(s, [i]) for s, i in ((fork, RIGHT[0]), (session, LEFT[0]))]
        assert np.array_equal(np.concatenate([turns[1], one_by_one(session, LEFT[1:])]), left)
        assert np.array_equal(np.concatenate([turns[0], one_by_one(fork, RIGHT[1:])]), right)
        assert session.tokens == IDS + LEFT
        assert fork.tokens == IDS + RIGHT


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_forks_are_exact_for_every_cache_type(model, kv_dtype):
    with Engine.load(model, shield="seal", kv_dtype=kv_dtype, context_tokens=128) as engine:
        expected = alone(engine, RIGHT)
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        session.feed(LEFT)
        assert np.array_equal(one_by_one(fork, RIGHT), expected)


def test_a_fork_of_a_fork_rolled_back_goes_on_exactly(model):
    with Engine.load(model, shield="seal", context_tokens=128) as engine:
        session = engine.start_session()
        session.feed(IDS[:20])
        expected = one_by_one(session, RIGHT)
        session.truncate(20)
        session.feed(IDS[20:])
        fork = session.fork().fork()
        fork.truncate(20)
        session.feed(LEFT)
        assert np.array_equal(one_by_one(fork, RIGHT), expected)


def test_a_fork_costs_no_page_until_it_goes_on(model):
    with Engine.load(model, shield="seal", context_tokens=128) as engine:
        session = engine.start_session()
        session.feed(IDS)
        pages = len(engine.dump_device_memory().headers())
        forks = [session.fork() for _ in range(3)]
        assert len(engine.dump_device_memory().headers()) == pages == 2
        forks[1].feed([1])
        headers = engine.dump_device_memory().headers()
        assert len(headers) == 3
        assert set(headers["family"]) == {1}
        assert sorted(headers["session"]) == [1, 1, 3]


def test_a_fork_outlives_the_session_it_came_from_and_ends_with_the_next_one(model):
    with Engine.load(model, shield="seal", context_tokens=128) as engine:
        expected = alone(engine, RIGHT)
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        session.close()
        assert engine.session is None
        with pytest.raises(EngineError, match="closed"):
            session.fork()
        assert np.array_equal(one_by_one(fork, RIGHT), expected)
        engine.start_session()
        assert fork.closed
        assert engine.dump_device_memory().pages == b""


@pytest.mark.parametrize("end", ["reset", "close"])
def test_reset_and_close_end_every_fork_and_drop_the_key_once(model, end):
    with Engine.load(model, shield="seal", context_tokens=128) as engine:
        session = engine.start_session()
        session.feed(IDS)
        forks = [session.fork(), session.fork()]
        forks[0].feed([1])
        used = engine._tee.client.status()["used_bytes"]
        dropped = []
        drop = engine._tee.drop_epoch
        engine._tee.drop_epoch = lambda handle: (dropped.append(handle), drop(handle))
        engine.reset() if end == "reset" else engine.close()
        assert session.closed and all(fork.closed for fork in forks)
        assert len(dropped) == 1
        assert engine.dump_device_memory().pages == b""
        if end == "reset":
            assert engine._tee.client.status()["used_bytes"] < used


def test_the_death_of_the_tee_ends_every_fork(model):
    with Engine.load(model, shield="seal", context_tokens=128) as engine:
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while engine._tee.alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(EngineError, match="the TEE process is gone"):
            fork.feed([1])
        assert fork.closed and session.closed
        assert engine.dump_device_memory().pages == b""


def test_a_cache_without_room_for_a_copy_leaves_the_fork_as_it_was(model):
    with Engine.load(model, shield="seal", context_tokens=64) as engine:  # two pages
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        with pytest.raises(EngineError, match="KV cache is full"):
            fork.feed([1])
        assert fork.tokens == IDS
        session.close()
        assert fork.feed([1]).shape[0] == 1


def test_generate_goes_on_in_the_branch_that_it_continues(model):
    with Engine.load(model, shield="seal", threads=1) as engine:
        question = [{"role": "user", "content": "hello there"}]
        answer = "".join(engine.generate(question, max_tokens=6))
        told = [*question, {"role": "assistant", "content": answer}]
        ways = [[*told, {"role": "user", "content": way}] for way in ("say more", "stop it")]
        expected = []
        for way in ways:
            engine.reset()
            expected.append("".join(engine.generate(way, max_tokens=6)))
        engine.reset()
        "".join(engine.generate(question, max_tokens=6))
        trunk = engine.session
        branch = trunk.fork()
        prefilled = []
        for way, answer in zip(ways, expected, strict=True):
            assert "".join(engine.generate(way, max_tokens=6)) == answer
            prefilled.append(engine.last_run.prefilled_tokens)
        assert engine.session is not trunk and branch in (engine.session, trunk)
        assert not trunk.closed and not branch.closed
        assert all(n < len(engine.render(ways[0]).ids) for n in prefilled)
        # Back to the first way: its rows are all there still.
        longer = [*ways[0], {"role": "assistant", "content": expected[0]}, ways[1][-1]]
        "".join(engine.generate(longer, max_tokens=2))
        assert engine.session is trunk
