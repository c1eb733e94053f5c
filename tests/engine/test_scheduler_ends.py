"""How requests end: cancelled, failed alone, failed together, closed. Nothing of them is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import TEE_DIED, EngineError, TeeDiedError
from tests.engine.dead_tee import kill_tee
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]
PROMPTS = ["hello there " * n for n in (1, 20, 3)]
SHIELDS = [
    {"shield": "seal"},
    {"shield": "permute+seal", "restore": "folded"},
    {"shield": "permute+seal", "restore": "tee"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with Engine.load(model, threads=1, shield="none", cache_tokens=4096) as engine:
        yield engine


def test_a_cancelled_request_is_wiped_before_the_next_step(model):
    with (
        Engine.load(model, threads=1, shield="seal", cache_tokens=1024) as engine,
        SteppedScheduler(engine, max_batch=2) as scheduler,
    ):
        kept, cancelled, waiting = (scheduler.submit("hello there", 40) for _ in range(3))
        for _ in range(5):
            scheduler.step()
        assert len(engine.dump_device_memory().sessions()) == 2
        session = scheduler._batch.jobs[1].session
        made, others = cancelled.generation.made_tokens, kept.generation.made_tokens
        cancelled.cancel()
        waiting.cancel()
        scheduler.step()
        assert session.closed
        assert len(engine.dump_device_memory().sessions()) == 1
        assert cancelled.ended
        assert cancelled.generation.made_tokens == made
        assert cancelled.stats.finish_reason == waiting.stats.finish_reason == "cancelled"
        assert waiting.stats.decode_tokens == 0
        assert kept.generation.made_tokens == others + 1
        scheduler.run()
        assert kept.result() == answer_alone(engine, "hello there", 40)
        assert kept.result().startswith(cancelled.result())


def test_leaving_a_request_cancels_it(engine):
    with Scheduler(engine) as scheduler:
        with scheduler.submit("hello there", 400) as request:
            next(iter(request))
        assert request.wait(60)
        assert request.stats.finish_reason in ("cancelled", "stop")


def test_one_session_that_fails_does_not_end_the_others(engine):
    with SteppedScheduler(engine) as scheduler:
        requests = [scheduler.submit(prompt, 24) for prompt in PROMPTS[:3]]
        for _ in range(6):
            scheduler.step()
        scheduler._batch.jobs[1].session.close()
        scheduler.run()
        with pytest.raises(EngineError, match="the session is closed"):
            requests[1].result()
        for at in (0, 2):
            assert requests[at].result() == answer_alone(engine, PROMPTS[at])


def test_logits_that_are_not_finite_end_one_request(engine):
    with SteppedScheduler(engine) as scheduler:
        good, bad = scheduler.submit("hello", 24), scheduler.submit("hello", 24)
        scheduler.step()
        push = bad.generation.push
        bad.generation.push = lambda logits: push(np.full_like(logits, np.nan))
        scheduler.run()
        with pytest.raises(EngineError, match="not finite"):
            bad.result()
        assert good.result() == answer_alone(engine, "hello")


def test_a_defect_ends_requests_instead_of_leaving_them_waiting(engine):
    with Scheduler(engine) as scheduler:
        scheduler._batch.plan = lambda: 1 // 0
        with pytest.raises(EngineError, match="the scheduler failed: ZeroDivisionError"):
            scheduler.submit("hello").result(60)


@pytest.mark.parametrize("fields", SHIELDS)
def test_a_dead_tee_fails_all_requests_and_not_the_next_one(model, fields):
    with Engine.load(model, threads=1, cache_tokens=2048, **fields) as engine:
        expected = answer_alone(engine, "hello there")
        with SteppedScheduler(engine, max_batch=2) as scheduler:
            requests = [scheduler.submit("hello there", 400) for _ in range(3)]
            for _ in range(4):
                scheduler.step()
            kill_tee(engine)
            scheduler.step()
            assert not scheduler.busy
            for request in requests:
                with pytest.raises(TeeDiedError) as error:
                    request.result(60)
                assert str(error.value) == TEE_DIED
                assert request.stats is None
            assert engine.dump_device_memory().pages == b""
            again = scheduler.submit("hello there", 24)
            scheduler.run()
            assert again.result() == expected


def test_a_tee_that_dies_as_a_request_gets_its_key_fails_all_of_them(model, monkeypatch):
    with (
        Engine.load(model, threads=1, shield="seal", cache_tokens=2048) as engine,
        SteppedScheduler(engine, max_batch=2) as scheduler,
    ):
        requests = [scheduler.submit("hello there", 400)]
        scheduler.step()
        client = engine._tee.client
        new_epoch = client.new_epoch

        def die_first(*args):
            kill_tee(engine)
            return new_epoch(*args)

        monkeypatch.setattr(client, "new_epoch", die_first)
        requests += [scheduler.submit("hello there", 400) for _ in range(2)]
        scheduler.step()
        for request in requests:
            with pytest.raises(TeeDiedError) as error:
                request.result(60)
            assert str(error.value) == TEE_DIED
        assert not scheduler.busy
        assert engine.dump_device_memory().pages == b""


def test_a_tee_killed_under_a_running_worker_fails_closed(model):
    with (
        Engine.load(model, threads=1, shield="seal", cache_tokens=4096) as engine,
        Scheduler(engine, max_batch=4) as scheduler,
    ):
        hot = [SamplingParams(temperature=2.0, seed=seed) for seed in range(6)]
        requests = [scheduler.submit("hello there", 480, sampling=params) for params in hot]
        next(iter(requests[0]))
        os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
        ends = [request.wait(60) for request in requests]
        assert all(ends)
        failed = [request for request in requests if request.stats is None]
        for request in failed:
            with pytest.raises(TeeDiedError):
                request.result()
        assert failed
        assert engine.dump_device_memory().pages == b""


def test_closing_fails_what_is_not_done(engine):
    scheduler = Scheduler(engine, max_batch=2)
    hot = SamplingParams(temperature=2.0, seed=1)
    requests = [scheduler.submit("hello there", 480, sampling=hot) for _ in range(4)]
    next(iter(requests[0]))
    scheduler.close()
    scheduler.close()
    assert engine.dump_device_memory().pages == b""
    assert all(request.ended for request in requests)
    with pytest.raises(EngineError, match="the scheduler is closed"):
        requests[3].result()
    with pytest.raises(EngineError, match="the scheduler is closed"):
        scheduler.submit("hello")


def test_a_closed_engine_ends_every_request(model):
    engine = Engine.load(model, threads=1, shield="none")
    with Scheduler(engine) as scheduler:
        request = scheduler.submit("hello there", 480)
        next(iter(request))
        engine.close()
        assert request.wait(60)
        with pytest.raises(EngineError, match="the engine is closed"):
            scheduler.submit("hello there", 480).result(60)


LEFT_OPEN = """
import os, sys
sys.path.insert(0, sys.argv[2])
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import TEE_DIED, EngineError
engine = Engine.load(sys.argv[1], shield="seal", threads=1)
scheduler = Scheduler(engine)
next(iter(scheduler.submit("hello there", 480)))
if os.fork() == 0:
    try:
        scheduler.submit("hello there")
    except EngineError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_process_ends_cleanly_with_a_scheduler_open_and_its_fork_is_refused(model):
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, str(model), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("load one of your own after a fork\n")
    assert done.stdout.count("\n") == 1


def test_an_engine_that_closes_beside_a_scheduler_is_not_taken_for_a_dead_tee(model):
    with Engine.load(model, threads=1, shield="seal", context_tokens=128) as engine:
        with SteppedScheduler(engine) as scheduler:
            request = scheduler.submit("hello", 24)
            scheduler.step()
            engine.close()
            scheduler.step()
            with pytest.raises(EngineError, match=r"^the engine is closed$"):
                request.result(0)
