"""A refused resume costs nothing: the conversation, its forks and its answer go on."""

import numpy as np
import pytest

from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import CapacityError, InputError, SecurityError
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(31).integers(0, 250, 41)]
MORE = [5, 9, 200, 31]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with Engine.load(
        model, threads=1, shield="seal", context_tokens=128, cache_tokens=256
    ) as engine:
        engine.add_adapter("a", random_adapter(engine.model, 4, 1))
        yield engine


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "session"
    with engine.open_session(["a"]) as session:
        session.feed(IDS)
        session.save(path)
    return path


def _wrong_adapters(engine, path):
    engine.resume(path)


def _unknown_adapter(engine, path):
    engine.resume(path, ["zz"])


def _cut_short(engine, path):
    path.write_bytes(path.read_bytes()[:-1])
    engine.resume(path, ["a"])


def _damaged(engine, path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    engine.resume(path, ["a"])


@pytest.mark.parametrize("refused", [_wrong_adapters, _unknown_adapter, _cut_short, _damaged])
def test_a_refused_resume_leaves_the_conversation_its_forks_and_its_answer(
    engine, saved, tmp_path, refused
):
    path = tmp_path / "session"
    path.write_bytes(saved.read_bytes())
    expected = "".join(engine.generate("hello there", 20))
    engine.reset()
    answer = engine.generate("hello there", 20)
    first = next(answer)
    session = engine.session
    fork = session.fork()
    free = engine.sessions.free_pages
    with pytest.raises((InputError, SecurityError)):
        refused(engine, path)
    assert engine.session is session
    assert not fork.closed
    assert engine.sessions.free_pages == free
    assert first + "".join(answer) == expected


def test_a_resume_without_pages_for_both_says_so_and_keeps_the_conversation(model, tmp_path):
    with Engine.load(model, threads=1, shield="seal", context_tokens=64) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(tmp_path / "session")
        with pytest.raises(CapacityError, match="the KV cache is full"):
            engine.resume(tmp_path / "session")
        assert engine.session is session
        assert session.tokens == IDS
        expected = session.feed(MORE)
        engine.reset()
        assert np.array_equal(engine.resume(tmp_path / "session").feed(MORE), expected)


def test_a_full_cache_is_a_matter_of_capacity(model):
    with Engine.load(model, threads=1, shield="seal", context_tokens=64, cache_tokens=96) as engine:
        engine.add_adapter("a", random_adapter(engine.model, 4, 1))
        held = engine.open_session()
        held.feed(IDS)
        with engine.open_session() as session, pytest.raises(CapacityError, match="cache is full"):
            session.feed(IDS)
        with pytest.raises(CapacityError, match="cache is full"):
            engine.forward(IDS)
        with pytest.raises(CapacityError, match="cache is full"):
            list(engine.generate("hello there, " * 3, 40))
        engine.reset()
        fork = held.fork()
        with pytest.raises(CapacityError, match="cache is full"):
            fork.select(engine.sessions.select(["a"]))
