"""A server that others wrote in the cloud's place: llama-cpp-python's, with Gemma-3-270M."""

import math
from dataclasses import replace

import openai
import pytest
from worlds import LentGuard, ScriptedEngine

from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.fusion import FixedWeight, FusedDecoder, FusionConfig, PublicView, as_it_is
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine import registry
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from ptmo_secure.pipeline import HybridInferenceEngine
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.types import Route
from tests.cloud.llamacpp import NAME, llamacpp
from tests.serve.serving import ServeProcess, text_of
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(300)
PUBLIC = "What is Python?"
LETTER = "Write an email to Andre Novak at andre@novak.org about the roof."
SECRET = "My password is secret123. What is Python?"
PRIVATE = (b"Novak", b"Andre", b"novak.org", b"secret123")


@pytest.fixture(scope="module")
def llama():
    with llamacpp() as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("device"), "Q4_1", context_length=1024).path


@pytest.fixture
def client(llama, guard, tmp_path):
    egress = Egress(LentGuard(guard), EgressLog(tmp_path / "egress"))
    provider = replace(provider_at(llama.url, "llama"), timeout_s=120.0)
    with CloudClient(provider, NAME, egress=egress, environ={}) as client:
        with egress.clearance(None, "test"):
            yield client


def said(llama, text, tokens):
    """What the server answers when it is asked by OpenAI's own client."""
    with openai.OpenAI(base_url=llama.url, api_key="none") as client:
        told = {"messages": [{"role": "user", "content": text}], "temperature": 0}
        answer = client.chat.completions.create(model=NAME, max_tokens=tokens, **told)
    return answer.choices[0].message.content


def nothing_private(llama):
    received = llama.received
    return b"POST" in received and not any(value in received for value in PRIVATE)


def test_the_pipeline_streams_its_answers_with_the_values_in_their_places(llama, guard, tmp_path):
    expected = said(llama, PUBLIC, 16)
    llama.forget()
    with HybridInferenceEngine(
        ScriptedEngine("from the device"),
        llama.url,
        budget=PrivacyBudget(),
        state=tmp_path,
        launch_guard=lambda: LentGuard(guard),
    ) as pipeline:
        pieces = []
        whole = pipeline.answer(PUBLIC, GenerationConfig(16), pieces.append)
        assert (whole.route, whole.text) == (Route.CLOUD, expected)
        assert "".join(pieces) == expected and len(pieces) > 1
        letter = pipeline.answer(LETTER, GenerationConfig(24), user="ann")
        assert letter.route is Route.HYBRID  # the model says the request again
        assert "Andre Novak at andre@novak.org" in letter.text and "[PERSON" not in letter.text
        mixed = pipeline.answer(SECRET, GenerationConfig(16), user="bob")
        assert mixed.route is Route.HYBRID and expected in mixed.text
    assert nothing_private(llama) and b"[PERSON_1] at [EMAIL_1]" in llama.received


def test_the_server_answers_by_it_whole_and_as_a_stream(llama, model, tmp_path):
    expected = said(llama, PUBLIC, 16)
    llama.forget()
    arguments = ("--model", str(model), "--threads", "1", "--cloud", llama.url)
    with ServeProcess(tmp_path / "state", *arguments) as process:
        with process.served.client(timeout=120) as client:
            name = process.told["model"]

            def ask(text, **more):
                messages = [{"role": "user", "content": text}]
                given = {"model": name, "temperature": 0, "max_tokens": 16, **more}
                return client.chat.completions.create(messages=messages, **given)

            whole = ask(PUBLIC)
            assert whole.choices[0].message.content == expected
            assert whole.x_ptmo["route"] == "cloud" and whole.usage.completion_tokens == 16
            assert whole.choices[0].finish_reason == "length"
            assert text_of(ask(PUBLIC, stream=True)) == expected
            letter = text_of(ask(LETTER, stream=True, max_tokens=24))
            assert "Andre Novak at andre@novak.org" in letter
            assert ask(SECRET).x_ptmo["route"] == "hybrid"
            alone = ask("My password is secret123.", max_tokens=4)
            assert alone.x_ptmo["route"] == "local"
    assert nothing_private(llama)


@pytest.mark.parametrize("legacy", [False, True], ids=["chat", "completions"])
def test_twenty_log_probabilities_a_token_are_read(client, legacy):
    about = {"prompt": "The sky is"} if legacy else {"prompt": None}
    messages = None if legacy else ({"role": "user", "content": PUBLIC},)
    request = CloudRequest(messages, max_tokens=3, top_logprobs=20, **about)
    stream = client.stream(request)
    deltas = list(stream)
    for reply in (client.complete(request), stream.reply):
        assert reply.text and len(reply.positions) == 3
        assert "".join(each.chosen.token for each in reply.positions) == reply.text
        for each in reply.positions:
            listed = [token.logprob for token in each.top]
            assert len(listed) >= 19  # two that read the same are one in the legacy form
            assert listed == sorted(listed, reverse=True)
            assert 0.2 < math.fsum(map(math.exp, listed)) <= 1.001
            assert each.chosen in each.top
    assert len(deltas) >= 3 and stream.reply.finish_reason == "length"


def test_its_log_probabilities_are_fused_token_by_token(client):
    try:
        device_model = registry.resolve("smollm2-135m")
    except InputError as missing:
        pytest.skip(str(missing))
    begun = "The sky is blue because"
    config = FusionConfig(
        weight=FixedWeight(0.0),
        ask_margin=math.inf,
        chunk_tokens=6,
        deadline_s=120.0,  # the server sorts 262,144 log-probabilities in Python for each token
        timeout_s=120.0,
    )
    with Engine.load(device_model, shield="none", threads=1, context_tokens=256) as device:
        decoder = FusedDecoder(device, client, config)
        view = PublicView(as_it_is, prompt=begun)
        text = "".join(decoder.generate(device.tokenizer.encode(begun), view, 4))
        run = decoder.last_run
    assert run.failures == {} and run.fused == run.tokens == 4
    drafted = client.complete(CloudRequest(None, prompt=begun, max_tokens=6))
    assert drafted.text.startswith(text)  # the device takes no share: it says what it reads
