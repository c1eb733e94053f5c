"""A server's flows over a model that answers in a batch: its sureness, its turns, what is left."""

import asyncio
import time
from contextlib import ExitStack, contextmanager

import openai
import pytest
from served_worlds import served_world, working

from ptmo_secure import cli
from ptmo_secure.cli import clouds
from ptmo_secure.cli import serve as serve_command
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.hybrid.cascade import Cascade
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.serve.guard_queue import GuardQueue
from ptmo_secure.serve.local import LocalRouter
from tests.cloud import hostile_server as hostile
from tests.fakes import FakeGuard
from tests.serve.serving import MODEL
from tests.tiny_models import make_tiny_model

ASKED = {"messages": [{"role": "user", "content": "What is Python?"}], "model": MODEL}
SHORT = {"max_tokens": 6, "temperature": 0}
THERE = "from the cloud"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("m"), "Q4_1", context_length=1024).path


@contextmanager
def modelled(model, folder, guard, **more):
    """Put a server of a tiny model together."""
    with ExitStack() as held:
        engine = held.enter_context(Engine.load(model, threads=1, shield="none"))
        shelf = SessionShelf(engine, 2)
        scheduler = held.enter_context(Scheduler(engine, shelf=shelf))
        classifier = held.enter_context(SensitivityClassifier(FakeGuard()))
        device = LocalRouter(engine, scheduler, shelf, classifier)
        world = held.enter_context(served_world(folder, guard, device, **more))
        world.engine, world.scheduler = engine, scheduler
        yield world


@pytest.mark.parametrize("margin", [-0.001, 0.001])
def test_the_score_of_a_cascade_is_the_models_own(model, tmp_path, guard, margin):
    with modelled(model, tmp_path, guard, cascade=Cascade(-50.0)) as here:
        listed = here.client.chat.completions.create(**ASKED, **SHORT, logprobs=True)
        tokens = listed.choices[0].logprobs.content
        mean = sum(token.logprob for token in tokens) / len(tokens)
        here.router._settings = type(here.router._settings)(cascade=Cascade(mean + margin))
        answer = here.client.chat.completions.create(**ASKED, **SHORT)
    told = answer.x_ptmo
    assert told["cascade_logprob"] == pytest.approx(mean, abs=1e-4)
    assert told["escalated"] is (margin > 0) is (answer.choices[0].message.content == THERE)
    assert margin > 0 or answer.choices[0].message.content == listed.choices[0].message.content
    assert answer.usage.completion_tokens == len(tokens) + (3 if margin > 0 else 0)


def test_a_client_that_leaves_takes_its_answers_out_of_the_batch(model, tmp_path, guard):
    behaviour = hostile.silent(30)
    with modelled(model, tmp_path, guard, hedge_s=0.01, behaviour=behaviour) as here:
        before, forward = working(), here.scheduler._batch.forward

        begun, submit = [], here.scheduler.submit

        def slowly(plan):
            time.sleep(0.05)
            return forward(plan)

        def counted(*args, **kwargs):
            begun.append(args)
            return submit(*args, **kwargs)

        here.scheduler._batch.forward, here.scheduler.submit = slowly, counted

        async def leave():
            client = openai.AsyncOpenAI(base_url=f"{here.served.url}/v1", api_key="none")
            async with client:
                asking = [
                    asyncio.create_task(client.chat.completions.create(**ASKED, max_tokens=900))
                    for _ in range(3)
                ]
                while len(begun) < 3:
                    await asyncio.sleep(0.005)
                for each in asking:
                    each.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

        asyncio.run(leave())
        end = time.monotonic() + 20
        while any(here.scheduler.stats()[name] for name in ("running", "waiting")):
            assert time.monotonic() < end, "the batch goes on"
            time.sleep(0.01)
        while working() - before:
            assert time.monotonic() < end, "a call goes on"
            time.sleep(0.01)


def test_the_options_of_the_command_reach_the_router(guard, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(serve_command, "_run", lambda *given: taken.append(given))
    given = ["--cascade", "-0.5", "--delegate", "--hedge", "2", "--state", str(tmp_path)]
    assert cli.main(["serve", "--cloud", "http://127.0.0.1:9/v1", *given]) == 0
    (asked,) = (each for each in taken[0] if isinstance(each, clouds.Asked))
    engine = type("Bare", (), {"sessions": type("Sessions", (), {"tee": None})})
    with ExitStack() as held:
        router = clouds.open_router(None, engine, SharedGuard(), GuardQueue(), asked, held)
        settings = router._settings
        assert (settings.cascade, settings.delegate, settings.hedge_s) == (Cascade(-0.5), True, 2.0)
        assert router._planner._cascade is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hedge", "1"], "--hedge needs --cloud"),
        (["--cloud", "ollama", "--cascade", "1"], "cascade threshold"),
        (["--cloud", "ollama", "--hedge", "-1"], "hedge_s"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_model_is_loaded(arguments, said, capsys):
    assert cli.main(["serve", *arguments]) == 2
    assert said in capsys.readouterr().err
