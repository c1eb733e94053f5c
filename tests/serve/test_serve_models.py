"""Several models at once: a request picks one, and gets no other's rows, adapters or sessions."""

import shutil
from contextlib import ExitStack

import openai
import pytest

from ptmo_secure import cli
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.serve.embedder import MODEL_ID, Embedder
from ptmo_secure.serve.local import LocalRouter
from ptmo_secure.serve.models import ModelsRouter
from ptmo_secure.serve.routing import Piece
from tests.fakes import FakeGuard
from tests.serve.serving import DONE, HELLO, MODEL, FakeRouter, ServeProcess, serving, text_of
from tests.tiny_models import make_tiny_model

GREEDY = {"temperature": 0, "max_tokens": 8}
OTHER = "second"


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    return [model, make_tiny_model(folder, "Q4_1", seed=7, context_length=64).path]


@pytest.fixture(scope="module")
def both(paths):
    with ExitStack() as held:
        classifier = held.enter_context(SensitivityClassifier(FakeGuard()))
        routers, tee = [], None
        for path in paths:
            engine = held.enter_context(Engine.load(path, tee=tee, threads=1, shield="seal"))
            shelf = SessionShelf(engine, 8)
            scheduler = held.enter_context(Scheduler(engine, shelf=shelf))
            routers.append(LocalRouter(engine, scheduler, shelf, classifier))
            tee = engine.sessions.host
        router = ModelsRouter(routers[0], {OTHER: routers[1]})
        embedder = Embedder(is_here=lambda: True)
        given = {"others": (OTHER,), "adapters": ("one",), "embedder": embedder}
        yield held.enter_context(serving(router, **given))


@pytest.fixture
def client(both):
    with both.client() as client:
        yield client


def ask(client, model, messages=HELLO, **fields):
    return client.chat.completions.create(model=model, messages=messages, **GREEDY, **fields)


def said(answer):
    return answer.choices[0].message.content


def cached(answer):
    return answer.usage.prompt_tokens_details.cached_tokens


def longer(answer):
    message = {"role": "assistant", "content": said(answer)}
    return [*HELLO, message, {"role": "user", "content": "and?"}]


def test_the_models_are_listed_and_each_answers_as_itself(client, paths):
    ids = [each.id for each in client.models.list()]
    assert ids == [MODEL, f"{MODEL}+one", OTHER, MODEL_ID]
    answers = [said(ask(client, name)) for name in (MODEL, OTHER)]
    for path, answer in zip(paths, answers, strict=True):
        with Engine.load(path, threads=1, shield="seal") as engine:
            assert "".join(engine.generate(HELLO, 8)) == answer
    assert answers[0] != answers[1]
    stream = client.chat.completions.create(model=OTHER, messages=HELLO, stream=True, **GREEDY)
    assert text_of(stream) == answers[1]
    prompted = [
        client.completions.create(model=name, prompt="hello", **GREEDY) for name in (MODEL, OTHER)
    ]
    assert prompted[0].choices[0].text != prompted[1].choices[0].text
    assert prompted[1].model == OTHER


def test_a_users_rows_in_one_model_are_none_in_the_other(client):
    talks = {name: longer(ask(client, name, user="ann")) for name in (MODEL, OTHER)}
    for name, other in ((MODEL, OTHER), (OTHER, MODEL)):
        assert cached(ask(client, name, talks[name], user="ann")) > 0
        assert cached(ask(client, name, talks[other], user="bob")) == 0


def test_each_has_its_own_context_and_the_first_alone_has_adapters(client):
    long = [{"role": "user", "content": "hello there " * 40}]
    assert said(ask(client, MODEL, long))
    with pytest.raises(openai.BadRequestError, match="the context holds 64"):
        ask(client, OTHER, long)
    with pytest.raises(openai.BadRequestError, match="the context holds 64"):
        client.completions.create(model=OTHER, prompt="hello there " * 40, max_tokens=1)
    for name, fields in (
        (f"{OTHER}+one", {}),
        (OTHER, {"extra_body": {"x_ptmo": {"adapters": ["one"]}}}),
    ):
        with pytest.raises(openai.NotFoundError, match="the adapters are tiny's"):
            ask(client, name, **fields)
    for name in ("third", MODEL_ID, f"x{OTHER}"):
        with pytest.raises(openai.NotFoundError, match="no such model"):
            ask(client, name)


def test_figures_are_of_all_models_together(client, both):
    ask(client, MODEL, user="carl")
    ask(client, OTHER, user="carl")
    assert both.service.router.gauges()["kept_sessions"] >= 2


def test_a_request_reaches_the_router_of_its_model_alone_and_all_are_closed():
    routers = [FakeRouter([Piece(text), DONE]) for text in ("one", "two")]
    router = ModelsRouter(routers[0], {OTHER: routers[1]})
    with serving(router, others=(OTHER,)) as served, served.client() as client:
        assert [said(ask(client, name)) for name in (MODEL, OTHER, MODEL)] == ["one", "two", "one"]
    assert [len(each.requests) for each in routers] == [2, 1]
    assert all(each.closed for each in routers)


def test_kept_sessions_come_back_to_their_model_and_to_no_other(paths, tmp_path):
    state = tmp_path / "state"
    arguments = ["--model", str(paths[0]), "--also", f"{OTHER}={paths[1]}", "--threads", "1"]
    arguments += ["--persist", "--cache-tokens", "2048"]
    folder = state / "serve"
    with ServeProcess(state, *arguments) as process, process.served.client() as client:
        name = process.told["model"]
        asked = [(name, "ann"), (OTHER, "ann"), (OTHER, "bob")]
        talks = [longer(ask(client, each, user=user)) for each, user in asked]
        fresh = [said(ask(client, each[0], talk)) for each, talk in zip(asked, talks, strict=True)]
        assert process.end()[0] == 0
    (first,) = (folder / "sessions").iterdir()
    second = folder / "models" / OTHER / first.name  # one user's: only the folder tells them apart
    assert len(list(second.parent.iterdir())) == 2
    shutil.copy(first, second)  # the first model's session in the place of the other's
    with ServeProcess(state, *arguments) as process, process.served.client() as client:
        pairs = zip(asked, talks, strict=True)
        answers = [ask(client, each, talk, user=user) for (each, user), talk in pairs]
        assert [said(answer) for answer in answers] == fresh
        assert [cached(answer) > 0 for answer in answers] == [True, False, True]
        assert "ptmo_sessions_refused 1.0" in process.served.get("/metrics")[1]


@pytest.mark.parametrize(
    ("also", "text"),
    [
        (["second"], "is not NAME=MODEL"),
        (["a+b=x.gguf"], "is not NAME=MODEL"),
        (["../x=x.gguf"], "is not NAME=MODEL"),
        (["smollm2-135m=x.gguf"], "another model is called smollm2-135m"),
        ([f"{MODEL_ID}=x.gguf"], f"another model is called {MODEL_ID}"),
        (["a=x.gguf", "a=y.gguf"], "another model is called a"),
        ([f"m{n}=x.gguf" for n in range(8)], "at most 7 beside the first"),
    ],
)
def test_other_models_that_make_no_sense_are_refused_in_one_line(also, text, capsys):
    code = cli.main(["serve", *(part for each in also for part in ("--also", each))])
    told = capsys.readouterr()
    assert (code, told.out) == (2, "") and text in told.err and told.err.count("\n") == 1
