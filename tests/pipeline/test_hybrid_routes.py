"""Every route of the pipeline, against a server on loopback that keeps what it got."""

import pytest
from worlds import CARRIES, MIXED, ScriptedEngine

from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.types import Level, Route
from tests.cloud import hostile_server as hostile


def steps(answer):
    return {step.name: step.facts for step in answer.trace}


def test_a_public_query_goes_as_it_is(make):
    here = make()
    answer = here.answer("What is Python?")
    assert (answer.text, answer.route, answer.level) == (
        "from the cloud",
        Route.CLOUD,
        Level.PUBLIC,
    )
    (body,) = here.bodies()
    assert body["messages"] == [{"role": "user", "content": "What is Python?"}]
    assert here.engine.prompts == [] and answer.masked == {}
    assert steps(answer)["cloud.answer"]["model"] == "m"


def test_of_a_mixed_query_the_public_segment_leaves_alone(make):
    here = make()
    answer = here.answer(MIXED)
    assert (answer.route, answer.level) == (Route.HYBRID, Level.SEMI_SENSITIVE)
    assert here.sent() == ["What is Python?"]
    assert b"secret123" not in here.server.received and b"password" not in here.server.received
    assert answer.text == "from the cloud"
    assert here.engine.prompts == []  # nothing that stays asks for anything


def test_a_private_question_beside_a_public_one_is_answered_here(make):
    query = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"
    here = make(engine=ScriptedEngine("No, it is common."))
    answer = here.answer(query)
    assert answer.route is Route.HYBRID
    assert here.sent() == ["How do I bake bread?"]
    (asked,) = here.engine.asked()
    assert "Lindqvist" in asked and "bread" not in asked
    assert answer.text == "No, it is common.\n\nfrom the cloud"
    assert answer.tokens > 0


def test_the_parts_stand_in_the_order_of_the_question(make):
    query = "How do I bake bread? My name is Ada Lindqvist; is Lindqvist a rare name for me?"
    here = make(engine=ScriptedEngine("It is common."))
    seen = []
    answer = here.answer(query, None, seen.append)
    assert here.sent() == ["How do I bake bread?"]
    assert answer.text == "from the cloud\n\nIt is common." == "".join(seen)


def test_a_request_that_carries_values_goes_masked_and_comes_back_whole(make):
    here = make(behaviour=hostile.stream(["Dear [PER", "SON_1],", " I write to [EMAIL", "_1]."]))
    seen = []
    answer = here.answer(CARRIES, None, seen.append)
    assert here.sent() == ["Write an email to [PERSON_1] at [EMAIL_1] about the roof."]
    assert answer.text == "Dear Dr. Andre Novak, I write to andre@novak.org."
    assert "".join(seen) == answer.text and len(seen) > 1
    assert (answer.route, answer.masked) == (Route.HYBRID, {"PERSON": 1, "EMAIL": 1})
    assert b"Novak" not in here.server.received and b"novak" not in here.server.received


@pytest.mark.parametrize(
    "query", ["My password is secret123.", "I have diabetes. What should I eat?"]
)
def test_a_private_query_stays(make, query):
    here = make()
    answer = here.answer(query)
    assert (answer.text, answer.route, answer.level) == (
        "from the device",
        Route.LOCAL,
        Level.PRIVATE,
    )
    assert here.server.received == b""
    assert here.engine.asked() == [query]


def test_without_a_cloud_nothing_is_asked_of_one(make):
    from ptmo_secure.pipeline import HybridInferenceEngine

    here = make()
    with HybridInferenceEngine(here.engine, launch_guard=here.pipeline._guard._launch) as alone:
        answer = alone.answer(MIXED)
    assert (answer.route, answer.text) == (Route.LOCAL, "from the device")
    assert here.server.received == b""


def test_options_reach_the_cloud(make):
    here = make()
    sampling = SamplingParams(temperature=0.5, top_p=0.9, seed=7)
    here.answer("What is Python?", GenerationConfig(33, sampling, ("END",)))
    (body,) = here.bodies()
    wanted = {"max_tokens": 33, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"]}
    assert {name: body[name] for name in wanted} == wanted


@pytest.mark.parametrize("pieces", [["It is a language. E", "ND More."], ["It is a language. END"]])
def test_a_cloud_that_does_not_stop_is_cut_off_where_it_should_have(make, pieces):
    here = make(behaviour=hostile.stream(pieces))
    answer = here.answer("What is Python?", GenerationConfig(33, stop=("END",)))
    assert (answer.text, answer.route) == ("It is a language. ", Route.CLOUD)


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (hostile.status(500), "CloudError:server"),
        (hostile.status(429, retry_after="60"), "CloudError:rate_limited"),
        (hostile.hang_up(), "CloudError:connection"),
        (hostile.events([b"data: <html>\n\n"]), "CloudError:malformed"),
        (hostile.stream([""]), "CloudError:empty"),
        (hostile.huge(6 << 20), "CloudError:too_large"),
    ],
    ids=["500", "429", "hang_up", "html", "empty", "huge"],
)
def test_a_cloud_that_fails_is_answered_for_by_the_device(make, behaviour, code):
    here = make(behaviour=behaviour)
    answer = here.answer("What is Python?")
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert steps(answer)["cloud.answer"] == {"failed": code}


def test_a_stream_that_breaks_off_is_followed_by_the_devices_answer(make):
    here = make(behaviour=hostile.half_closed())
    seen = []
    answer = here.answer("What is Python?", None, seen.append)
    assert answer.text == "half of \n\nfrom the device" == "".join(seen)
    assert answer.route is Route.HYBRID


def test_of_a_mixed_query_the_device_answers_what_a_broken_cloud_did_not(make):
    query = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"
    here = make(engine=ScriptedEngine("Common.", "Bake it."), behaviour=hostile.status(500))
    answer = here.answer(query)
    assert here.engine.asked()[1] == "How do I bake bread?"
    assert (answer.text, answer.route) == ("Common.\n\nBake it.", Route.LOCAL)


def test_tools_are_asked_for_with_the_values_in_their_arguments(make):
    call = {
        "index": 0,
        "id": "call_1",
        "function": {"name": "send", "arguments": ""},
    }
    more = [{"index": 0, "function": {"arguments": text}} for text in ('{"to":"[EM', 'AIL_1]"}')]
    pieces = [hostile.event({"tool_calls": [piece]}) for piece in (call, *more)]
    here = make(behaviour=hostile.events([*pieces, hostile.event({}, "tool_calls")]))
    tool = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}
    answer = here.answer(CARRIES, tools=[tool])
    (asked,) = answer.tool_calls
    assert asked["function"] == {"name": "send", "arguments": '{"to": "andre@novak.org"}'}
    assert here.bodies()[0]["tools"] == [tool]
    assert answer.route is Route.HYBRID
