"""A second `ptmo serve` in the cloud's place, with another model: asked by pipeline and server."""

import pytest
from worlds import MIXED, ScriptedEngine

from ptmo_secure.config import GenerationConfig
from ptmo_secure.pipeline import HybridInferenceEngine
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.types import Route
from tee_sim.client import TeeClient
from tests.serve.serving import ServeProcess
from tests.tiny_models import make_tiny_model

PUBLIC = "What is Python?"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud")
    model = make_tiny_model(folder, "Q8_0", context_length=1024).path
    with ServeProcess(folder / "state", "--model", str(model), "--threads", "1") as running:
        yield running


def answer_of(served, text):
    """What the server in the cloud's place answers to a text."""
    client = served.client()
    model = client.models.list().data[0].id
    told = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12}
    return client.chat.completions.create(model=model, **told).choices[0].message.content


def test_its_answer_to_the_public_part_is_given_with_the_devices(cloud, tmp_path):
    expected = answer_of(cloud.served, PUBLIC)
    with HybridInferenceEngine(
        ScriptedEngine("from the device"),
        f"{cloud.served.url}/v1",
        budget=PrivacyBudget(),
        state=tmp_path,
        launch_guard=lambda: TeeClient.launch("guard"),
    ) as pipeline:
        whole = pipeline.answer(PUBLIC, options=GenerationConfig(12))
        assert (whole.route, whole.text) == (Route.CLOUD, expected)
        mixed = pipeline.answer(MIXED, options=GenerationConfig(12))
        assert mixed.route is Route.HYBRID and expected in mixed.text


def test_a_server_asks_it_and_answers_alone_when_it_is_gone(cloud, tmp_path):
    model = make_tiny_model(tmp_path, "Q4_1", context_length=1024).path
    arguments = ("--model", str(model), "--threads", "1", "--cloud", f"{cloud.served.url}/v1")
    with ServeProcess(tmp_path / "state", *arguments) as running:
        client = running.served.client()
        name = client.models.list().data[0].id
        given = {"messages": [{"role": "user", "content": PUBLIC}], "temperature": 0}
        answer = client.chat.completions.create(model=name, max_tokens=12, **given)
        assert answer.choices[0].message.content == answer_of(cloud.served, PUBLIC)
        assert answer.x_ptmo["route"] == "cloud"
        cloud.process.kill()
        cloud.process.wait(30)
        alone = client.chat.completions.create(model=name, max_tokens=12, **given)
        assert alone.x_ptmo["route"] == "local" and alone.choices[0].message.content
        assert alone.x_ptmo["cloud_failed"].startswith("CloudError:")
