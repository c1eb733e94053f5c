"""Names of tools and properties leave only if they hold no value: seen in the cloud's bytes."""

import json

import pytest

from ptmo_secure.cloud.body import Text
from ptmo_secure.types import Route

QUERY = "Write an email to Bob at bob@novak.org about the roof."


def tool(name="get_weather", **properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


NAMED = [
    tool("call_Bob"),
    tool("callBob"),
    tool("bob-call.v2"),
    tool("call2bob"),
    tool("call_bob_novak_org"),
    tool(send_to_bob={"type": "string"}),
    tool(who={"type": "string", "enum": ["the_boss", "Bob_at_home"]}),
    tool("call_555_123_4567"),  # in no vault: the guard finds it
]


def refusals(answer):
    return {step.facts.get("failed") for step in answer.trace if step.name == "cloud.answer"}


@pytest.mark.parametrize("named", NAMED, ids=json.dumps)
def test_a_tool_whose_name_tells_a_value_keeps_the_request_here(make, named):
    here = make()
    answer = here.answer(QUERY, tools=[tool("look_up"), named])
    assert (answer.route, answer.text) == (Route.LOCAL, "from the device")
    code = "private" if "555" in json.dumps(named) else "held"
    assert refusals(answer) == {f"EgressRefusedError:{code}"}
    received = here.server.received.lower()
    assert b"bob" not in received and b"4567" not in received


@pytest.mark.parametrize(("name", "goes"), [("call_roofer", True), ("callBob", False)])
def test_the_name_of_a_call_in_the_history_is_read_too(make, name, goes):
    here = make()
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    talk = [
        {"role": "user", "content": QUERY},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "user", "content": "What is Python?"},
    ]
    answer = here.answer(talk)
    assert answer.text == ("from the cloud" if goes else "from the device")
    assert (b"call_roofer" in here.server.received) is goes
    assert b"bob" not in here.server.received.lower()


def test_other_names_go_as_they_are(make):
    here = make()
    tools = [
        tool("get_current_weather", city={"type": "string"}),
        tool("sendEmail", max_results={"type": "integer"}, zip_code={"type": "string"}),
        tool("update_order", mode={"type": "string", "enum": ["at_once", "next-day"]}),
    ]
    answer = here.answer(QUERY, tools=tools)
    assert (answer.route, answer.text) == (Route.HYBRID, "from the cloud")
    (body,) = here.bodies()
    assert body["tools"] == tools and "bob" not in json.dumps(body).lower()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("call_Bob", "call Bob"),
        ("callBobNow", "call Bob Now"),
        ("HTTPServer2", "HTTP Server 2"),
        ("__call--bob__", "call bob"),
        ("call.555", "call 555"),
        ("call", None),
        ("2026-04-01", None),
        ("two words", None),
    ],
)
def test_a_name_is_read_by_its_words(name, words):
    assert Text("tools[0].function.name", name).words == words
    assert Text("messages[0].tool_calls[0].function.name", name).words == words
    assert Text("messages[0].tool_calls[0].function.arguments(json).*", name).words is None
    assert Text("messages[0].content", name).words is None
    assert Text("x.*", name, is_key=True).words == words


@pytest.mark.parametrize(
    ("number", "goes"),
    [
        ({"default": 4821}, False),
        ({"minimum": 4821.0}, False),
        ({"enum": [1, 4821]}, False),
        ({"default": 4822, "maximum": 1000}, True),
    ],
)
def test_a_short_number_of_a_tool_goes_unless_it_is_a_value(make, number, goes):
    here = make()
    named = tool(pages={"type": "integer", **number})
    answer = here.answer("My PIN is 4821. What is Python?", tools=[named])
    assert (answer.route is Route.LOCAL) is not goes
    assert refusals(answer) == ({None} if goes else {"EgressRefusedError:held"})
    assert (b"4822" in here.server.received) is goes
    assert b"4821" not in here.server.received
