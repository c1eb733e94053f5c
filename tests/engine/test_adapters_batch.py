"""Requests that decode together, each under adapters of its own."""

import pytest

from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import InputError
from tests.engine.adapter_checks import (
    IDS,
    check_that_one_pass_equals_each_session_alone,
    check_that_requests_together_answer_as_alone,
)
from tests.engine.dead_tee import kill_tee
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.engine.test_adapters import with_adapters
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize(
    "fields",
    [{"shield": "none"}, {"shield": "seal"}, {"shield": "permute+seal", "restore": "tee"}],
    ids=str,
)
def test_requests_of_a_batch_have_adapters_of_their_own(model, fields):
    with with_adapters(model, 3, threads=2, cache_tokens=2048, **fields) as engine:
        check_that_requests_together_answer_as_alone(engine)


def test_a_request_under_an_unknown_adapter_is_refused(model):
    with with_adapters(model, 1) as engine, Scheduler(engine) as scheduler:
        with pytest.raises(InputError, match="unknown adapter 'x'"):
            scheduler.submit("hello", adapters=["x"])


def test_sessions_of_different_sets_feed_in_one_pass_to_the_bits_of_each_alone(model):
    with with_adapters(model, 3, cache_tokens=1024) as engine:
        check_that_one_pass_equals_each_session_alone(engine)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_request_keeps_the_adapters_it_was_submitted_with(model, replaced):
    with with_adapters(model, 3, cache_tokens=1024) as engine:
        expected = answer_alone(engine, "hello", adapters=["a1"])
        other = random_adapter(engine.model, 8, seed=9, size=0.5)
        with SteppedScheduler(engine, max_batch=1) as scheduler:
            first = scheduler.submit("hello", 4, adapters=["a0"])
            second = scheduler.submit("hello", 24, adapters=["a1"])
            scheduler.step()
            engine.unload_adapter("a0")  # it runs already
            engine.unload_adapter("a1")
            if replaced:
                engine.add_adapter("a1", other)
            scheduler.run()
            assert first.result(0)
            assert second.result(0) == expected
        if replaced:
            assert answer_alone(engine, "hello", adapters=["a1"]) != expected


def test_a_preempted_request_computes_its_rows_again_under_its_own_adapters(model):
    with with_adapters(model, 2, context_tokens=128, cache_tokens=128) as engine:
        expected = answer_alone(engine, IDS[:40], 60, adapters=["a1"])
        with SteppedScheduler(engine, max_batch=2) as scheduler:
            older = scheduler.submit(IDS[:40], 60)
            request = scheduler.submit(IDS[:40], 60, adapters=["a1"])
            while len(scheduler.running) < 2:
                scheduler.step()
            engine.unload_adapter("a1")
            engine.add_adapter("a1", random_adapter(engine.model, 8, seed=9, size=0.5))
            scheduler.run()
            assert older.result(0)
            assert request.result(0) == expected
            assert request.stats.preemptions >= 1


def test_a_waiting_request_gets_its_unloaded_adapters_as_the_next_tee_permutes_them(model):
    with with_adapters(model, 2, shield="permute+seal") as engine:
        expected = answer_alone(engine, "hello", adapters=["a1"])
        with SteppedScheduler(engine) as scheduler:
            request = scheduler.submit("hello", 24, adapters=["a1"])
            engine.unload_adapter("a1")
            kill_tee(engine)
            engine.open_session().close()
            scheduler.run()
            assert request.result(0) == expected


def test_an_answer_keeps_the_adapters_it_was_asked_with(model):
    with with_adapters(model, 2) as engine:
        expected = answer_alone(engine, "hello", adapters=["a1"])
        answer = engine.generate("hello", 24, adapters=["a1"])
        engine.unload_adapter("a1")
        assert "".join(answer) == expected


def test_a_fresh_session_under_an_unknown_adapter_costs_no_conversation(model):
    with with_adapters(model, 1) as engine:
        expected = answer_alone(engine, "hello")
        answer = engine.generate("hello", 24)
        begun = next(answer)
        with pytest.raises(InputError, match="unknown adapter 'x'"):
            engine.start_session(["x"])
        assert begun + "".join(answer) == expected
