"""Several models on the device beside a cloud: the one that is named has the device's part."""

import pytest
from served_worlds import ScriptedDevice, served_world
from worlds import MIXED

from ptmo_secure.serve.models import ModelsRouter
from tests.cloud import hostile_server as hostile
from tests.serve.serving import MODEL

OTHER = "second"
DRAFT = "What makes a letter about a roof polite?"


@pytest.fixture
def devices():
    return {MODEL: ScriptedDevice("by the first"), OTHER: ScriptedDevice("by the second")}


@pytest.fixture
def router(devices):
    return ModelsRouter(devices[MODEL], {OTHER: devices[OTHER]})


@pytest.mark.parametrize(("name", "own"), [(MODEL, "by the first"), (OTHER, "by the second")])
@pytest.mark.parametrize("stream", [False, True])
def test_the_named_model_answers_what_stays_beside_the_cloud(
    tmp_path, guard, router, devices, name, own, stream
):
    with served_world(tmp_path, guard, router, others=(OTHER,)) as here:
        text, told = here.ask("My password is secret123.", stream=stream, model=name)
        assert (text, told["route"]) == (own, "local")
        text, told = here.ask("What is Python?", stream=stream, model=name)
        assert (text, told["route"]) == ("from the cloud", "cloud")
        here.says(hostile.status(500))  # and where the cloud fails
        text, told = here.ask("What is Rust?", stream=stream, model=name)
        assert (text, told["route"], told["cloud_failed"]) == (own, "local", "CloudError:server")
    assert [len(each.asked) for each in devices.values()] == [2, 0][:: 1 if name == MODEL else -1]


def test_a_preview_has_its_draft_from_the_model_that_it_names(tmp_path, guard, router, devices):
    devices[MODEL].texts[0], devices[OTHER].texts[0] = "What is a roof?", DRAFT
    carries = [{"role": "user", "content": "Write to Dr. Andre Novak about the roof."}]
    body = {"messages": carries, "user": "ann"}
    with served_world(tmp_path, guard, router, others=(OTHER,), delegate=True) as here:
        for model, draft in (({}, "What is a roof?"), ({"model": OTHER}, DRAFT)):
            status, told, _ = here.served.post("/x-ptmo/preview", {**body, **model})
            assert (status, told["flow"]) == (200, "delegate")
            assert told["request"]["messages"] == [{"role": "user", "content": draft}]
        assert here.sent() == []
        here.ask(carries, model=OTHER)
        assert here.sent() == [DRAFT]


@pytest.mark.parametrize("fields", [{"model": "third"}, {"x_ptmo": {"adapters": ["x"]}}])
def test_a_preview_for_what_is_not_there_is_refused_as_the_request(tmp_path, guard, router, fields):
    body = {"messages": [{"role": "user", "content": MIXED}], **fields}
    with served_world(tmp_path, guard, router, others=(OTHER,)) as here:
        status, told, _ = here.served.post("/x-ptmo/preview", body)
        assert (status, told["error"]["code"]) == (404, "model_not_found")
        given = {"model": MODEL, **body, "x_ptmo": body.get("x_ptmo", {})}
        status, told, _ = here.served.post("/v1/chat/completions", given)
        assert (status, told["error"]["code"]) == (404, "model_not_found")
