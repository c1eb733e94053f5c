"""Ctrl-C at any place of an operation leaves a session that goes on as if nothing had been."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.engine import Engine
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(29).integers(0, 250, 41)]
MORE = [5, 9, 200, 31]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module", params=["none", "seal"])
def engine(model, request):
    with Engine.load(model, threads=2, context_tokens=128, shield=request.param) as engine:
        for name, seed in (("a", 1), ("b", 2)):
            engine.add_adapter(name, random_adapter(engine.model, 4, seed))
        yield engine


class Interrupted:
    """A native object, one call of which does its work and then raises, as after a signal."""

    def __init__(self, native, name):
        self.__dict__.update(native=native, name=name, armed=True)

    def __getattr__(self, name):
        value = getattr(self.native, name)
        if name != self.name or not self.armed:
            return value

        def call(*arguments):
            value(*arguments)
            self.__dict__["armed"] = False
            raise KeyboardInterrupt

        return call

    def __setattr__(self, name, value):
        setattr(self.native, name, value)
        if name == self.name and self.armed:
            self.__dict__["armed"] = False
            raise KeyboardInterrupt


class InterruptedDecoder:
    """A decoder that computes and then raises; sessions are handed on as they are."""

    def __init__(self, decoder):
        self.decoder = decoder

    def forward_batch(self, *arguments):
        self.decoder.forward_batch(*arguments)
        raise KeyboardInterrupt


class InterruptedList(list):
    def extend(self, _):
        raise KeyboardInterrupt

    def __delitem__(self, _):
        raise KeyboardInterrupt


def fresh_logits(engine, ids, adapters=()):
    with engine.open_session(adapters) as session:
        session.feed(ids)
        return session.feed(MORE)


@pytest.fixture
def interrupt_pass(monkeypatch):
    def arm(session):
        stopped = InterruptedDecoder(session._host.decoder)
        monkeypatch.setattr(session, "_host", replace(session._host, decoder=stopped))

    return arm


def assert_settled(session, ids):
    assert session.tokens == ids
    assert len(session.row_tags) == session._native.length == len(ids)


def test_an_interrupted_feed_takes_nothing(engine, interrupt_pass, monkeypatch):
    with engine.open_session() as session:
        session.feed(IDS[:20])
        interrupt_pass(session)
        with pytest.raises(KeyboardInterrupt):
            session.feed(IDS[20:])
        assert_settled(session, IDS[:20])
        monkeypatch.undo()
        session.feed(IDS[20:])
        assert np.array_equal(session.feed(MORE), fresh_logits(engine, IDS))


@pytest.mark.parametrize("records", ["tokens", "row_tags"])
def test_an_interrupt_while_the_ids_are_written_down_takes_nothing(engine, records):
    with engine.open_session() as session:
        session.feed(IDS[:20])
        setattr(session, records, InterruptedList(getattr(session, records)))
        with pytest.raises(KeyboardInterrupt):
            session.feed(IDS[20:])
        setattr(session, records, list(getattr(session, records)))
        session.feed(IDS[20:])
        assert_settled(session, IDS)
        assert np.array_equal(session.feed(MORE), fresh_logits(engine, IDS))


def _fork(engine, session, path):
    return session.fork()


def _save(engine, session, path):
    if engine.config.shield == "none":
        pytest.skip("no TEE, nothing to save under")
    session.save(path / "saved")
    return engine.resume(path / "saved")


def _select(engine, session, path):
    session.select(engine.sessions.select([]))
    return session


def _use_adapters(engine, session, path):
    session.use_adapters(["a"])
    session.use_adapters([])
    return session


def _feed(engine, session, path):
    return session


@pytest.mark.parametrize("operation", [_feed, _fork, _save, _select, _use_adapters])
@pytest.mark.parametrize("lost", ["a row", "an id", "a tag"])
def test_every_operation_settles_what_an_interrupt_left_unequal(engine, operation, lost, tmp_path):
    with engine.open_session() as session:
        session.feed(IDS)
        if lost == "a row":
            session._native.truncate(len(IDS) - 1)
        else:
            del (session.tokens if lost == "an id" else session.row_tags)[-1]
        with operation(engine, session, tmp_path) as going_on:
            got = going_on.feed(MORE)
            assert_settled(going_on, IDS[:-1] + MORE)
        assert np.array_equal(got, fresh_logits(engine, IDS[:-1]))


def test_an_interrupted_truncation_is_finished_by_the_next_call(engine):
    with engine.open_session() as session:
        session.feed(IDS)
        session._native = Interrupted(session._native, "truncate")
        with pytest.raises(KeyboardInterrupt):
            session.truncate(20)
        session._native = session._native.native
        assert np.array_equal(session.feed(MORE), fresh_logits(engine, IDS[:20]))
        assert_settled(session, IDS[:20] + MORE)


def test_an_interrupted_choice_of_adapters_changes_nothing(engine):
    with engine.open_session(["a"]) as session:
        session.feed(IDS)
        session._native = Interrupted(session._native, "adapter_tag")
        with pytest.raises(KeyboardInterrupt):
            session.use_adapters(["b"], keep_kv=True)
        session._native = session._native.native
        assert session.adapters == ("a",)
        session.truncate(len(IDS))
        assert session._native.adapter_tag == session.adapter_tag
        assert np.array_equal(session.feed(MORE), fresh_logits(engine, IDS, ["a"]))


def test_an_interrupted_change_of_adapters_keeps_the_ids(engine, interrupt_pass, monkeypatch):
    with engine.open_session(["a"]) as session:
        session.feed(IDS)
        interrupt_pass(session)
        with pytest.raises(KeyboardInterrupt):
            session.use_adapters(["b"])
        monkeypatch.undo()
        assert_settled(session, IDS)
        assert np.array_equal(session.feed(MORE), fresh_logits(engine, IDS, ["b"]))


def test_a_conversation_goes_on_exactly_after_an_interrupt(engine):
    first = [{"role": "user", "content": "hello"}]
    answer = "".join(engine.generate(first, 4))
    turns = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "more"}]
    expected = "".join(engine.generate(turns, 8))
    engine.reset()
    "".join(engine.generate(first, 4))
    # Rows the ids do not tell of, as an interrupt between the pass and the book-keeping leaves.
    session = engine.session
    del session.tokens[session.prompt_tokens :]
    assert "".join(engine.generate(turns, 8)) == expected
    assert engine.session is session
    assert_settled(session, session.tokens)


def test_a_close_that_was_interrupted_is_finished_by_the_next(engine):
    session = engine.open_session()
    session.feed(IDS)
    free = engine.sessions.free_pages
    session._native = Interrupted(session._native, "close")
    with pytest.raises(KeyboardInterrupt):
        session.close()
    session._native = session._native.native
    session.close()
    assert session.family() == []
    assert session._family.tee_handle is None
    assert engine.sessions.free_pages > free


def test_a_signal_in_the_pass_leaves_a_session_that_feeds_on_exactly(model):
    ids = IDS * 11
    with Engine.load(model, threads=1, context_tokens=512, shield="seal") as engine:
        expected = fresh_logits(engine, ids)
        session = engine.open_session()
        held = signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                while True:
                    session.feed(ids)
                    session.truncate(0)
        finally:
            timer.join()
            signal.signal(signal.SIGINT, held)
        if len(session.tokens) < len(ids):
            session.feed(ids[len(session.tokens) :])
        assert_settled(session, ids)
        assert np.array_equal(session.feed(MORE), expected)
