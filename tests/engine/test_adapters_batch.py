"""Requests that decode together, each under adapters of its own."""

import numpy as np
import pytest

from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import InputError
from tests.engine.stepped import SteppedScheduler
from tests.engine.test_adapters import IDS, with_adapters
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
    sets = [["a0"], [], ["a0", "a1"], ["a0"], ["a2"], []]
    with with_adapters(model, 3, threads=2, cache_tokens=2048, **fields) as engine:
        expected = []
        for i, names in enumerate(sets):
            engine.reset()
            expected.append("".join(engine.generate("hello " * (i + 1), 12, adapters=names)))
        assert len(set(expected)) == len(sets)
        with Scheduler(engine, max_batch=4, max_step_tokens=20) as scheduler:
            requests = [
                scheduler.submit("hello " * (i + 1), 12, adapters=names)
                for i, names in enumerate(sets)
            ]
            assert [request.result(60) for request in requests] == expected
            with pytest.raises(InputError, match="unknown adapter 'x'"):
                scheduler.submit("hello", adapters=["x"])


def test_sessions_of_different_sets_feed_in_one_pass_to_the_bits_of_each_alone(model):
    with with_adapters(model, 3, cache_tokens=1024) as engine:
        sets = [["a0"], [], ["a2", "a1"], ["a0"]]
        expected = [engine.forward(IDS[i:], names) for i, names in enumerate(sets)]
        engine.reset()
        sessions = [engine.open_session(names) for names in sets]
        got = feed_batch([(s, IDS[i:]) for i, s in enumerate(sessions)], all_logits=True)
        assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def test_a_waiting_request_whose_adapter_is_unloaded_fails_and_the_others_go_on(model):
    with with_adapters(model, 2, cache_tokens=1024) as engine:
        with SteppedScheduler(engine, max_batch=1) as scheduler:
            first = scheduler.submit("hello", 4, adapters=["a0"])
            second = scheduler.submit("hello", 4, adapters=["a1"])
            third = scheduler.submit("hello", 4)
            scheduler.step()
            engine.unload_adapter("a0")  # it runs already
            engine.unload_adapter("a1")
            while not third.ended:
                scheduler.step()
            assert first.result(0) and third.result(0)
            with pytest.raises(InputError, match="unknown adapter 'a1'"):
                second.result(0)
