"""Rotations that fail: the rows stay under the key they had, or nothing is left of them."""

import itertools

import numpy as np
import pytest

from ptmo_secure.engine import tee_link
from ptmo_secure.errors import EngineError, TeeDiedError
from tee_sim.client import TeeError
from tee_sim.errors import Origin, ResultCode
from tests.engine.dead_tee import kill_tee
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.engine.test_rotation import load
from tests.tiny_models import make_tiny_model

IDS = list(range(40))
MORE = [5, 9, 200]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def expected(model):
    with load(model, "none") as engine:
        return engine.forward(IDS + MORE)[len(IDS) :]


def more(session):
    return session.feed(MORE, all_logits=True)


def fail_at(monkeypatch, target, name, error, call=1, *, after=False):
    """Make one call of a method fail: before it does its work or after; `error` may be a deed."""
    real, calls = getattr(target, name), iter(range(1, 1 << 30))

    def stop():
        if isinstance(error, type) or isinstance(error, Exception):
            raise error
        error()

    def wrapped(*arguments, **fields):
        number = next(calls)
        if number == call and not after:
            stop()
        result = real(*arguments, **fields)
        if number == call and after:
            stop()
        return result

    monkeypatch.setattr(target, name, wrapped)


def refusal():
    return TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP, "no room")


def free_slots(engine):
    arena = engine._tee.arena
    slots = []
    while True:
        try:
            slots.append(arena.take_slot())
        except RuntimeError:
            break
    for slot in slots:
        arena.free_slot(slot)
    return len(slots)


def assert_nothing_is_left(engine, *sessions):
    assert all(session.closed for session in sessions)
    assert engine.dump_device_memory().pages == b""
    assert free_slots(engine) == engine._tee.arena.size // 256


# ------------------------------------------------------------------ seal keys


@pytest.mark.parametrize("error", [refusal(), KeyboardInterrupt], ids=["refused", "interrupted"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_key_that_is_not_drawn_leaves_the_session_as_it_was(
    model, expected, monkeypatch, error, after
):
    with load(model, "seal") as engine:
        session = engine.open_session()
        session.feed(IDS)
        before, slots = engine.dump_device_memory().pages, free_slots(engine)
        with monkeypatch.context() as patch:
            fail_at(patch, engine._tee.client, "new_epoch", error, after=after)
            with pytest.raises((EngineError, KeyboardInterrupt)) as raised:
                session.rotate()
        assert not isinstance(raised.value, TeeDiedError)
        assert engine.dump_device_memory().pages == before
        assert free_slots(engine) == slots
        session.rotate()  # the TEE drew a key that nobody used: the next one serves
        assert engine.dump_device_memory().pages != before
        assert np.array_equal(more(session), expected)
        session.close()


def test_a_refused_policy_stops_the_pass_and_the_session_goes_on_later(
    model, expected, monkeypatch
):
    with load(model, "seal", rotate_after_tokens=40) as engine:
        session = engine.open_session()
        session.feed(IDS)
        with monkeypatch.context() as patch:
            fail_at(patch, engine._tee.client, "new_epoch", refusal())
            with pytest.raises(EngineError, match="the TEE gave no seal key"):
                more(session)
        assert session.tokens == IDS and session._native.length == len(IDS)
        assert np.array_equal(more(session), expected)
        assert engine.stats()["seal_keys_rotated"] == 1


@pytest.mark.parametrize("shield", ["seal", "permute+seal"])
@pytest.mark.parametrize("by", ["session", "engine", "policy"])
def test_a_tee_that_dies_as_a_key_is_drawn_leaves_nothing(model, expected, monkeypatch, shield, by):
    limit = {"rotate_after_tokens": 40} if by == "policy" else {}
    with load(model, shield, **limit) as engine:
        session, other = engine.open_session(), engine.open_session()
        fork = session.fork()
        for each in (session, other):
            each.feed(IDS)
        client = engine._tee.client
        call = 2 if by == "engine" else 1  # of two families
        with monkeypatch.context() as patch:
            fail_at(patch, client, "new_epoch", lambda: kill_tee(engine), call)
            with pytest.raises(TeeDiedError):
                {"session": session.rotate, "engine": engine.rotate}.get(
                    by, lambda: more(session)
                )()
        assert session.closed and fork.closed
        with pytest.raises(EngineError):
            other.feed([1])
        assert_nothing_is_left(engine, session, other, fork)
        assert np.array_equal(engine.forward(IDS + MORE)[len(IDS) :], expected)


def test_a_tee_that_dies_once_a_key_is_drawn_is_noticed_by_the_next_row(model, monkeypatch):
    with load(model, "seal") as engine:
        session = engine.open_session()
        session.feed(IDS)
        fail_at(monkeypatch, engine._tee.client, "new_epoch", lambda: kill_tee(engine), after=True)
        try:
            session.rotate()
        except EngineError:  # the watcher came first
            pass
        with pytest.raises(EngineError):
            session.feed([1])
        assert_nothing_is_left(engine, session)


def test_requests_fail_together_when_the_tee_dies_in_a_rotation(model, monkeypatch):
    with (
        load(model, "seal", rotate_after_tokens=20) as engine,
        SteppedScheduler(engine, max_batch=2) as scheduler,
    ):
        expected = answer_alone(engine, "hello there", 30)
        requests = [scheduler.submit("hello there", 120) for _ in range(3)]
        scheduler.step()
        with monkeypatch.context() as patch:
            fail_at(patch, engine._tee.client, "new_epoch", lambda: kill_tee(engine))
            scheduler.run()
        for request in requests:
            with pytest.raises(TeeDiedError):
                request.result(60)
        assert engine.dump_device_memory().pages == b""
        again = scheduler.submit("hello there", 30)
        scheduler.run()
        assert again.result() == expected


# ------------------------------------------------------------------ permutations


def test_a_permutation_that_is_refused_leaves_everything_as_it_was(model, expected, monkeypatch):
    with load(model, "permute", "a") as engine:
        session = engine.open_session()
        session.feed(IDS)
        before, pid = engine.dump_device_memory().pages, engine.stats()["tee_pid"]
        with monkeypatch.context() as patch:
            fail_at(patch, engine._tee.client, "rotate_model", refusal())
            with pytest.raises(EngineError, match="the TEE drew no permutation"):
                engine.rotate()
        assert engine.dump_device_memory().pages == before
        assert engine.stats()["tee_pid"] == pid
        assert engine.stats()["permutations_rotated"] == 0
        assert np.array_equal(more(session), expected)


STEPS = [  # calls of the client in their order, and which of them; a refused first one is above
    ("rotate_model", 1),
    ("permute_weights", 1),
    ("permute_weights", 7),
    ("reorder_rows", 1),
    ("reorder_rows", 4),
    ("end_rotation", 1),
]


@pytest.mark.parametrize("shield", ["permute", "permute+seal"])
@pytest.mark.parametrize(
    ("name", "call", "how"),
    [
        (*step, how)
        for step, how in itertools.product(STEPS, ("dies", "refuses", "is interrupted"))
        if (step[0], how) != ("rotate_model", "refuses")
    ],
)
def test_a_rotation_that_stops_half_way_leaves_nothing_and_the_next_run_is_whole(
    model, expected, monkeypatch, shield, name, call, how
):
    with load(model, shield, "ab") as engine:
        adapted = engine.forward(IDS, ["b", "a"])
        session, other = engine.open_session(["a"]), engine.open_session()
        fork = session.fork()
        for each in (session, fork, other):
            each.feed(IDS)
        kinds = {"dies": lambda: kill_tee(engine), "refuses": refusal()}
        with monkeypatch.context() as patch:
            fault = kinds.get(how, KeyboardInterrupt)
            after = how == "refuses"  # what it did stands, and the answer is lost
            fail_at(patch, engine._tee.client, name, fault, call, after=after)
            wanted = {"dies": TeeDiedError, "refuses": EngineError}.get(how, KeyboardInterrupt)
            with pytest.raises(wanted):
                engine.rotate()
        assert not engine._tee.alive()
        assert_nothing_is_left(engine, session, other, fork)
        assert np.array_equal(engine.forward(IDS + MORE)[len(IDS) :], expected)
        assert np.array_equal(engine.forward(IDS, ["b", "a"]), adapted)
        assert engine.stats()["permutations_rotated"] == 0


def test_a_native_failure_while_rows_move_leaves_nothing(model, expected, monkeypatch):
    with load(model, "permute+seal") as engine:
        session = engine.open_session()
        session.feed(IDS)
        monkeypatch.setitem(tee_link._ELEMENT_BYTES, "int8", 0.5)  # half the memory it needs
        with pytest.raises((EngineError, ValueError, TypeError)):
            engine.rotate()
        monkeypatch.undo()
        assert_nothing_is_left(engine, session)
        assert np.array_equal(engine.forward(IDS + MORE)[len(IDS) :], expected)


@pytest.mark.parametrize("shield", ["seal", "permute", "permute+seal"])
def test_a_rotation_under_a_dead_tee_says_so_and_leaves_nothing(model, shield):
    with load(model, shield) as engine:
        session = engine.open_session()
        session.feed(IDS)
        kill_tee(engine)
        with pytest.raises(TeeDiedError):
            engine.rotate()
        assert_nothing_is_left(engine, session)
        engine.open_session().feed(IDS)
        engine.rotate()
