"""When a seal key is replaced, and what that takes: by policy or on demand."""

import pytest

from ptmo_secure.engine.config import MAX_SEALED_SESSIONS
from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.errors import CapacityError, InputError
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.engine.test_rotation import load
from tests.fakes import FakeClock
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def crossings(engine, application="kv"):
    """Calls of an application, by command."""
    counts = {}
    for row in engine.sessions.ledger.rows():
        if row.application == application:
            counts[row.command] = counts.get(row.command, 0) + row.usage.crossings
    return counts


def epochs(engine):
    return set(engine.dump_device_memory().headers()["epoch"].tolist())


# ------------------------------------------------------------------ when


def test_a_key_seals_exactly_the_tokens_it_may(model):
    with load(model, rotate_after_tokens=10) as engine:
        session = engine.open_session()
        seen = []
        for _ in range(40):
            session.feed([1])
            seen.append(engine.stats()["seal_keys_rotated"])
        assert seen == [i // 10 for i in range(40)]
        assert crossings(engine) == {"NEW_EPOCH": 1 + 3}


def test_a_pass_is_never_split_and_does_not_take_a_used_key_beyond_its_tokens(model):
    with load(model, rotate_after_tokens=10) as engine:
        session = engine.open_session()
        rotated = []
        for rows in (4, 6, 1, 10, 25, 1, 9):
            session.feed([1] * rows)
            rotated.append(engine.stats()["seal_keys_rotated"])
        # 4 + 6 | 1 | 10 | 25, a pass alone | 1 + 9
        assert rotated == [0, 0, 1, 2, 3, 4, 4]


def test_forks_write_under_one_key_and_count_together(model):
    with load(model, rotate_after_tokens=10) as engine:
        session = engine.open_session()
        session.feed([1] * 6)
        fork = session.fork()
        other = engine.open_session()
        feed_batch([(session, [1, 2]), (other, [1] * 9), (fork, [3, 4])])
        assert engine.stats()["seal_keys_rotated"] == 0
        feed_batch([(session, [1]), (other, [1]), (fork, [3])])
        assert engine.stats()["seal_keys_rotated"] == 1
        assert (session._family.written, other._family.written) == (2, 10)


def test_a_failed_pass_counts_what_it_may_have_sealed(model, monkeypatch):
    with load(model, rotate_after_tokens=10) as engine:
        session = engine.open_session()
        session.feed([1] * 6)
        with pytest.raises(InputError, match="token id"):
            session.feed([1, 2, 3, 100_000])
        assert session._family.written == 10 and len(session.tokens) == 6
        session.feed([1])
        assert engine.stats()["seal_keys_rotated"] == 1


def test_resumed_rows_count_and_rows_sealed_anew_do_not(model, tmp_path):
    with load(model, rotate_after_tokens=30) as engine:
        engine.start_session().feed([1] * 28)
        engine.session.save(tmp_path / "saved")
        session = engine.resume(tmp_path / "saved")
        assert session._family.written == 28
        session.feed([1, 2])
        assert engine.stats()["seal_keys_rotated"] == 0
        session.feed([1])
        assert engine.stats()["seal_keys_rotated"] == 1
        assert session._family.written == 1


def test_a_key_is_replaced_once_it_is_so_old(model):
    clock = FakeClock()
    with load(model, rotate_after_seconds=60) as engine:
        engine.sessions.rotation.clock = clock
        session, idle = engine.open_session(), engine.open_session()
        session.feed([1])
        clock.now += 59.5
        session.feed([1])
        assert engine.stats()["seal_keys_rotated"] == 0
        clock.now += 0.5
        session.feed([1])
        assert engine.stats()["seal_keys_rotated"] == 1  # `idle` waits for its next pass
        clock.now += 59.5
        feed_batch([(session, [1]), (idle, [1])])
        assert engine.stats()["seal_keys_rotated"] == 2
        fork = idle.fork()  # of the family's age
        clock.now += 60
        fork.feed([2])
        assert engine.stats()["seal_keys_rotated"] == 3


def test_a_rotation_on_demand_starts_a_keys_life_anew(model):
    clock = FakeClock()
    with load(model, rotate_after_seconds=60, rotate_after_tokens=10) as engine:
        engine.sessions.rotation.clock = clock
        session = engine.open_session()
        session.feed([1] * 9)
        clock.now += 50
        session.rotate()
        clock.now += 50
        session.feed([1] * 10)
        assert engine.stats()["seal_keys_rotated"] == 1


def test_a_stream_and_requests_rotate_by_policy(model):
    with load(model, rotate_after_tokens=16) as engine:
        expected = answer_alone(engine, "hello there", 40)
        rotated = engine.stats()["seal_keys_rotated"]
        assert rotated >= 2
        with SteppedScheduler(engine, max_batch=2) as scheduler:
            requests = [scheduler.submit("hello there", 40) for _ in range(2)]
            scheduler.run()
            assert [request.result() for request in requests] == [expected] * 2
        assert engine.stats()["seal_keys_rotated"] >= 3 * rotated


# ------------------------------------------------------------------ what it takes


@pytest.mark.parametrize("shield", ["seal", "permute+seal"])
def test_a_session_makes_two_crossings_and_one_a_rotation(model, shield):
    with load(model, shield) as engine:
        before = crossings(engine)
        session = engine.open_session()
        session.feed(list(range(50)))
        fork = session.fork()
        for _ in range(3):
            session.rotate()
            fork.feed([1])
        session.close()
        fork.close()
        after = crossings(engine)
        made = {name: n - before.get(name, 0) for name, n in after.items()}
        assert {name: n for name, n in made.items() if n} == {"NEW_EPOCH": 1 + 3, "DROP_EPOCH": 1}


def test_rotating_everything_crosses_once_a_family(model):
    with load(model) as engine:
        sessions = [engine.open_session() for _ in range(3)]
        for session in sessions:
            session.feed([1] * 40)
        fork = sessions[0].fork()
        engine.rotate()
        assert crossings(engine) == {"NEW_EPOCH": 3 + 3}
        assert crossings(engine, "admin") == {"ROTATE": 1}
        stats = engine._tee.client.stats()
        assert (stats.seal_keys, stats.seal_keys_due) == (3, 0)
        sessions[0].close()  # the fork is what is left of its family
        fork.feed([1])
        engine.rotate()
        assert crossings(engine) == {"NEW_EPOCH": 3 + 3 + 3}


def test_moving_rows_crosses_twice_a_layer_and_page_shared_ones_once(model):
    with load(model, "permute+seal") as engine:
        session = engine.open_session()
        session.feed([1] * 70)  # three pages
        fork = session.fork()
        fork.feed([1])  # a copy of the last
        engine.rotate()
        layers = engine.model.n_layers
        assert crossings(engine)["MOVE_ROWS"] == 2 * layers * 4
        assert "UNPERMUTE_ROWS" not in crossings(engine)  # never back in the model's order


def test_rotating_takes_no_key_slot_for_good(model):
    with load(model) as engine:
        session = engine.open_session()
        session.feed([1] * 40)
        for _ in range(100):
            session.rotate()
        free = engine._tee.arena.size // 256 - 1
        assert len({engine._tee.arena.take_slot() for _ in range(free)}) == free


def test_without_a_free_key_slot_nothing_changes(model):
    with load(model, rotate_after_tokens=40) as engine:
        session = engine.open_session()
        session.feed([1] * 40)
        others = [engine.open_session() for _ in range(MAX_SEALED_SESSIONS - 1)]
        before = engine.dump_device_memory().pages
        for call in (session.rotate, engine.rotate, lambda: session.feed([1])):
            with pytest.raises(CapacityError, match="slots are all in use: close a session first"):
                call()
            assert engine.dump_device_memory().pages == before
            assert session.tokens == [1] * 40 and session._family.written == 40
        assert engine.stats()["seal_keys_rotated"] == 0
        others.pop().close()
        session.feed([1])
        assert engine.stats()["seal_keys_rotated"] == 1


def test_a_change_of_adapters_that_finds_no_key_slot_loses_no_row(model):
    with load(model, adapters="a", rotate_after_tokens=40) as engine:
        session = engine.open_session()
        session.feed([1] * 30)
        others = [engine.open_session() for _ in range(MAX_SEALED_SESSIONS - 1)]
        before = engine.dump_device_memory().pages
        with pytest.raises(CapacityError, match="slots are all in use"):
            session.use_adapters(["a"])  # its rows, computed anew, would be 60 under one key
        assert engine.dump_device_memory().pages == before
        assert session.tokens == [1] * 30 and session.adapters == ()
        others.pop().close()
        session.use_adapters(["a"])
        assert session.tokens == [1] * 30 and session.adapters == ("a",)
        assert (engine.stats()["seal_keys_rotated"], session._family.written) == (1, 30)


def test_pages_name_the_epoch_of_the_key_they_are_under(model):
    with load(model) as engine:
        session = engine.open_session()
        session.feed([1] * 70)
        fork = session.fork()
        assert epochs(engine) == {1}
        session.rotate()
        assert epochs(engine) == {2}
        session.feed([1] * 40)
        fork.feed([2] * 40)
        assert epochs(engine) == {2} and len(engine.dump_device_memory().headers()) == 6
