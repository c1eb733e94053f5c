"""A session changes its adapters in a cache too small for it: the whole change, or nothing."""

import numpy as np
import pytest

from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import CapacityError
from tests.tiny_models import make_tiny_model

PAGE = 16
IDS = [int(i) for i in np.random.default_rng(3).integers(3, 250, 46)]
CONTEXT = 3 * PAGE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, pages):
    engine = Engine.load(
        model,
        threads=1,
        shield="seal",
        rows_per_page=PAGE,
        context_tokens=CONTEXT,
        cache_tokens=pages * PAGE,
    )
    for seed, name in enumerate(("a0", "a1")):
        engine.add_adapter(name, random_adapter(engine.model, 4, seed))
    return engine


def under_two_sets(engine):
    """20 rows under a0, then 20 under a1."""
    session = engine.start_session(["a0"])
    session.feed(IDS[:20])
    session.use_adapters(["a1"], keep_kv=True)
    session.feed(IDS[20:40])
    return session


def all_rows_shared(engine):
    session = engine.start_session()
    session.feed(IDS[:40])
    return session, session.fork(), ["a0"]


def own_rows_after_shared_ones(engine):
    session, fork, names = all_rows_shared(engine)
    fork.feed(IDS[40:43])
    return session, fork, names


def first_rows_stay_and_are_copied(engine):
    session = under_two_sets(engine)
    return session, session.fork(), ["a0"]


def first_rows_stay_and_are_shared(engine):
    session = under_two_sets(engine)
    session.use_adapters(["a0"], keep_kv=True)
    return session, session.fork(), ["a0"]


SITUATIONS = [
    (all_rows_shared, 6),
    (own_rows_after_shared_ones, 6),
    (first_rows_stay_and_are_copied, 6),
    (first_rows_stay_and_are_shared, 5),
]


@pytest.mark.parametrize(("situation", "pages"), SITUATIONS)
def test_a_refused_change_of_adapters_loses_no_row(model, situation, pages):
    with load(model, pages - 1) as engine:
        other, session, names = situation(engine)
        before = (list(session.tokens), list(session.row_tags), session.adapters)
        dumped = engine.dump_device_memory().pages
        with pytest.raises(CapacityError, match="the KV cache is full"):
            session.use_adapters(names)
        assert (session.tokens, session.row_tags, session.adapters) == before
        assert engine.dump_device_memory().pages == dumped
        other.close()  # its pages are what was missing
        session.use_adapters(names)
        expected = session.feed([7])
    with load(model, pages) as engine:
        assert np.array_equal(expected, engine.forward([*before[0], 7], names)[-1:])


@pytest.mark.parametrize(("situation", "pages"), SITUATIONS)
def test_a_change_of_adapters_may_take_the_last_page(model, situation, pages):
    with load(model, pages) as engine:
        other, session, names = situation(engine)
        session.use_adapters(names)
        assert engine.sessions.free_pages == 0
        assert other.tokens == IDS[:40]


def test_a_refused_answer_under_kept_rows_loses_no_row(model):
    with load(model, 3) as engine:
        session, _, names = all_rows_shared(engine)
        session.prompt_tokens = 20
        before = list(session.tokens)
        with pytest.raises(CapacityError, match="the KV cache is full"):
            session.continued_by([*IDS[:30], 1], engine.sessions.select(names), keep_kv=True)
        assert session.tokens == before
