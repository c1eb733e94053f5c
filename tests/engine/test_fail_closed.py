"""A dead TEE stops the run, wipes the cache, and does not stop the next run."""

import os

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import EngineError, InputError
from tests.engine.dead_tee import check_that_a_dead_tee_ends_the_run, kill_tee
from tests.tiny_models import make_tiny_model

CASES = [
    {"shield": "seal"},
    {"shield": "permute", "restore": "folded"},
    {"shield": "permute", "restore": "tee"},
    {"shield": "permute+seal"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize("fields", CASES)
def test_tee_killed_in_mid_generation_fails_closed_and_the_next_run_works(model, fields):
    with Engine.load(model, threads=1, **fields) as engine:
        check_that_a_dead_tee_ends_the_run(engine)


def test_tee_killed_between_layers_fails_closed(model):
    with Engine.load(model, threads=1, shield="permute", restore="tee") as engine:
        restore = engine._tee.restore

        def restore_then_die(layer, n_tokens):
            restore(layer, n_tokens)
            kill_tee(engine)

        engine._tee.restore = restore_then_die
        session = engine.start_session()
        with pytest.raises(EngineError, match="the TEE process is gone"):
            session.feed([1, 2, 3])
        assert session.closed
        assert engine.dump_device_memory().pages == b""


def test_a_dead_tee_is_noticed_before_the_first_row(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        session = engine.start_session()
        kill_tee(engine)
        with pytest.raises(EngineError, match="the TEE process is gone"):
            session.feed([1])


def test_no_engine_without_its_tee(model, monkeypatch):
    from tee_sim.client import TeeClient, TeeError

    def refuse(*_, **__):
        raise TeeError(0xFFFF0000, 1, "no process")

    monkeypatch.setattr(TeeClient, "launch", refuse)
    with pytest.raises(EngineError, match="the TEE could not be started"):
        Engine.load(model, shield="seal")


def test_shield_none_starts_no_tee(model):
    with Engine.load(model, shield="none") as engine:
        assert engine.stats()["tee_pid"] is None


def test_forked_child_refuses_to_run(model):
    with Engine.load(model, shield="none", threads=1) as engine:
        session = engine.start_session()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                session.feed([1])
                os.write(writer, b"ran")
            except EngineError:
                os.write(writer, b"refused")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"refused"


def test_failed_feed_leaves_the_session_as_it_was(model):
    with Engine.load(model, threads=1) as engine:
        session = engine.start_session()
        before = session.feed([5, 6, 7])
        with pytest.raises(InputError, match="token id 100000"):
            session.feed([1, 100000])
        assert session.tokens == [5, 6, 7]
        again = engine.start_session().feed([5, 6, 7])
        assert np.array_equal(before, again)


def test_starting_another_run_ends_the_first_with_an_error(model):
    with Engine.load(model, threads=1) as engine:
        first = engine.generate("one", max_tokens=200)
        next(first)
        list(engine.generate("two", max_tokens=2))
        with pytest.raises(EngineError, match="took this engine over"):
            list(first)


@pytest.mark.parametrize("shield", ["seal", "permute+seal"])
def test_rows_and_sessions_of_a_dead_tee_stay_unusable_when_the_engine_goes_on(model, shield):
    with Engine.load(model, threads=1, shield=shield) as engine:
        old = engine.start_session()
        old.feed([1, 2, 3])
        sealed = engine.dump_device_memory()
        kill_tee(engine)
        new = engine.start_session()
        expected = new.feed([1, 2, 3])
        again = engine.dump_device_memory()
        data = sealed.layout.data_offset
        row = slice(data, data + sealed.layout.tile_bytes // sealed.layout.rows_per_page)
        assert len(again.pages) == len(sealed.pages)
        assert again.pages[row] != sealed.pages[row]  # another key: what was kept opens no more
        for call in (lambda: old.feed([4]), lambda: old.fork(), lambda: old.truncate(1)):
            with pytest.raises(EngineError):
                call()
        assert new.feed([4]).shape == expected.shape  # and the new session is not disturbed
