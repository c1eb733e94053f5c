"""Names of tools and of their arguments leave only if they hold no value: in the cloud's bytes."""

import json

import pytest

from ptmo_secure.cloud.body import Text
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

QUERY = "Write an email to Bob at bob@novak.org about the roof."


def calls(ident, function):
    return {"id": ident, "type": "function", "function": function}


def tool(name="get_weather", **properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


NAMED = [
    tool("call_Bob"),
    tool("callBob"),
    tool("bob-call.v2"),
    tool("call2bob"),
    tool("call_bob_novak_org"),
    tool("call_555_123_4567"),  # in no vault: the guard finds it
    tool("fetch_url"),  # nothing private, but not to the guard
    tool("bash"),
]


def refusals(answer):
    return {step.facts.get("failed") for step in answer.trace if step.name == "cloud.answer"}


def received(here):
    """Every byte that arrived, but the port, which may have a value's digits."""
    return here.server.received.replace(f":{here.server.port}\r".encode(), b":\r")


def calling(name, arguments="{}"):
    """A cloud that calls a function."""
    function = {"name": name, "arguments": arguments}
    piece = {"index": 0, "id": "c", "type": "function", "function": function}
    return hostile.events([hostile.event({"tool_calls": [piece]}), hostile.event({}, "tool_calls")])


@pytest.mark.parametrize("named", NAMED, ids=json.dumps)
def test_a_tool_whose_name_looks_private_goes_under_another_one(make, named):
    here = make(behaviour=calling("tool_1"))
    answer = here.answer(QUERY, tools=[tool("look_up"), named])
    (body,) = here.bodies()
    assert [one["function"]["name"] for one in body["tools"]] == ["look_up", "tool_1"]
    (call,) = answer.tool_calls
    assert call["function"]["name"] == named["function"]["name"]
    assert b"bob" not in received(here).lower() and b"4567" not in received(here)


@pytest.mark.parametrize(
    ("name", "here_is", "offered"),
    [
        ("tool_1", "tool_3", True),  # the user's own, which has another name too
        ("tool_2", "fetch_url", True),
        ("tool_3", None, False),
        ("input_1", None, False),
        ("look_up", "look_up", True),
    ],
)
def test_a_call_by_an_alias_that_was_not_told_is_text(make, name, here_is, offered):
    here = make(behaviour=calling(name))
    answer = here.answer(QUERY, tools=[tool("tool_3"), tool("fetch_url"), tool("look_up")])
    assert [call["function"]["name"] for call in answer.tool_calls] == [here_is] * offered
    assert (f'"name": "{name}"' in answer.text) is not offered


def test_what_is_private_in_a_definition_stays_and_the_request_goes(make):
    told = {"e-mail": "x"}
    here = make(behaviour=calling("tool_1", '{"input_1": {"input_1": "[PERSON_1]"}, "n": 1}'))
    definition = {
        "type": "object",
        "title": "mailBob",
        "properties": {
            "send_to_bob": {"type": "object", "description": "Say it to Bob, by mailBob."},
            "who": {"type": "string", "enum": ["the_boss", "Bob_at_home"]},
            "how": {"type": ["string", "null"], "enum": ["kind", "cold"], "default": "bob-like"},
            "description": {"type": "string", "examples": [told, "for Bob"]},
        },
        "required": ["send_to_bob", "who"],
    }
    function = {"name": "mailBob", "description": "Bob's mail.", "parameters": definition}
    answer = here.answer(QUERY, tools=[{"type": "function", "function": function}])
    (body,) = here.bodies()
    assert body["tools"][0]["function"] == {
        "name": "tool_1",
        "description": "...'s mail.",
        "parameters": {
            "type": "object",
            "title": "tool_1",
            "properties": {
                "input_1": {"type": "object", "description": "Say it to ..., by tool_1."},
                "who": {"type": "string"},
                "how": {"type": ["string", "null"], "enum": ["kind", "cold"]},
                "description": {"type": "string"},
            },
            "required": ["input_1", "who"],
        },
    }
    assert b"bob" not in here.server.received.lower()
    (call,) = answer.tool_calls
    arguments = {"send_to_bob": {"send_to_bob": "Bob"}, "n": 1}
    assert call["function"] == {"name": "mailBob", "arguments": json.dumps(arguments)}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "$defs": {"Bob": {"type": "string"}}},
        {"type": "object", "patternProperties": {"^bob": {"type": "string"}}},
        {"type": "object", "dependentRequired": {"a": ["bob"]}},
        {"type": "object", "properties": {"a": {"$ref": "https://bob.example"}}},
    ],
)
def test_other_words_of_a_definition_keep_the_request_here(make, parameters):
    here = make()
    function = {"name": "look_up", "parameters": parameters}
    answer = here.answer(QUERY, tools=[{"type": "function", "function": function}])
    assert (answer.route, answer.text) == (Route.LOCAL, "from the device")
    assert refusals(answer) == {"EgressRefusedError:held"}
    assert b"bob" not in here.server.received.lower()


def test_calls_in_the_history_have_the_names_of_the_definitions(make):
    here = make()
    called = {"name": "callBob", "arguments": '{"bob_town": 1, "day": "now"}'}
    talk = [
        {"role": "user", "content": QUERY},
        {"role": "assistant", "content": "", "tool_calls": [calls("c", called)]},
        {"role": "tool", "tool_call_id": "c", "name": "callBob", "content": "done"},
        {"role": "user", "content": "What is Python?"},
    ]
    here.answer(talk, tools=[tool("look_up"), tool("fetch_url"), tool("callBob")])
    (body,) = here.bodies()
    names = [one["function"]["name"] for one in body["tools"]]
    (sent,) = next(m for m in body["messages"] if m["role"] == "assistant")["tool_calls"]
    assert (names, sent["function"]["name"]) == (["look_up", "tool_1", "tool_2"], "tool_2")
    assert json.loads(sent["function"]["arguments"]) == {"input_1": 1, "day": "now"}
    assert b"bob" not in here.server.received.lower()


def test_an_alias_stays_for_as_long_as_the_conversation(make):
    here = make(behaviour=calling("tool_1", '{"input_1": "x"}'))
    fetch = tool("fetch_url", arxiv_search={"type": "string"})
    talk = [{"role": "user", "content": QUERY}]
    answer = here.answer(talk, tools=[fetch])
    talk += [
        {"role": "assistant", "content": "", "tool_calls": list(answer.tool_calls)},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    assert answer.tool_calls[0]["function"] == {
        "name": "fetch_url",
        "arguments": '{"arxiv_search": "x"}',
    }
    here.says(hostile.stream(["k"]))
    here.answer(
        talk, tools=[tool("bash"), tool("tool_1", input_1={}), fetch]
    )  # the cloud's own words go back
    here.answer(talk, tools=[], session="another")  # there they are taken for the device's
    first, again, other = (
        [m for m in b["messages"] if "tool_calls" in m] for b in here.bodies()[:3]
    )
    assert first == [] and [one["function"]["name"] for one in here.bodies()[1]["tools"]] == [
        *("tool_2", "tool_3", "tool_1")
    ]
    for sent in (again, other):
        (call,) = sent[0]["tool_calls"]
        assert call["function"]["name"] == "tool_1"
        assert json.loads(call["function"]["arguments"]) == {"input_1": "x"}
    assert b"fetch" not in here.server.received and b"bash" not in here.server.received


def test_a_name_that_became_a_value_later_goes_no_longer(make):
    here = make(behaviour=calling("roof_crew"))
    talk = [{"role": "user", "content": "What is Python?"}]
    answer = here.answer(talk, tools=[tool("roof_crew")])
    talk += [
        {"role": "assistant", "content": "", "tool_calls": list(answer.tool_calls)},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    assert answer.tool_calls[0]["function"]["name"] == "roof_crew"
    here.server.forget()
    here.answer("My password is roof_crew. Write to Bob.", session="default")
    here.says(hostile.stream(["k"]))
    answer = here.answer(talk, tools=[tool("roof_crew")])
    assert answer.text == "k" and b"roof_crew" not in here.server.received


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
    assert (b"4822" in received(here)) is goes
    assert b"4821" not in received(here)


@pytest.mark.parametrize(("depth", "offered"), [(32, True), (33, False), (480, False)])
def test_a_call_with_arguments_that_nest_deep_is_text(make, depth, offered):
    arguments = '{"a": ' * depth + "1" + "}" * depth
    here = make(behaviour=calling("look_up", arguments))
    answer = here.answer(QUERY, tools=[tool("look_up")])
    assert (len(answer.tool_calls) == 1) is offered
    said = json.dumps({"name": "look_up", "arguments": arguments})
    assert answer.text == ("" if offered else said)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[1e999]"])
def test_a_call_with_a_number_that_is_no_json_is_text(make, number):
    arguments = f'{{"a": {number}}}'
    here = make(behaviour=calling("look_up", arguments))
    answer = here.answer(QUERY, tools=[tool("look_up")])
    assert answer.tool_calls == ()
    assert answer.text == json.dumps({"name": "look_up", "arguments": arguments})


def test_a_call_in_the_history_that_nests_deep_stays(make):
    here = make()
    deep = {"name": "look_up", "arguments": '{"a": ' * 200 + "1" + "}" * 200}
    talk = [
        {"role": "user", "content": "What is Rust?"},
        {"role": "assistant", "content": "", "tool_calls": [calls("c", deep)]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "user", "content": "What is Python?"},
    ]
    assert here.answer(talk).text == "from the cloud"
    assert here.bodies()[0]["messages"] == [talk[0], talk[3]]


def test_an_alias_looks_private_to_nobody(make):
    here = make()
    answer = here.answer(QUERY, tools=[tool(f"bob_{number}") for number in range(30)])
    assert answer.text == "from the cloud" and b"tool_30" in here.server.received


ORDINARY = (
    ("bash", "Executes a given bash command in a shell.", {"command": {"type": "string"}}),
    ("fetch_url", "Fetches a URL from the internet.", {"url": {"type": "string"}}),
    ("jira_search", "Search issues in Jira using JQL.", {"jql": {"type": "string"}}),
    ("add_todo", "Add an item to the user's todo list.", {"todos": {"type": "array"}}),
    ("get_weather", "Get the weather.", {"unit": {"enum": ["celsius", "fahrenheit"]}}),
    ("create_issue", "Create a GitHub issue.", {"repo": {"type": ["string", "null"]}}),
    ("spotify_play", "Play a song on Spotify.", {"song": {"type": "string"}}),
)


def test_an_agent_with_ordinary_tools_gets_its_cloud(make):
    here = make()
    tools = [tool(name, **properties) for name, _, properties in ORDINARY]
    for one, (_, description, _) in zip(tools, ORDINARY, strict=True):
        one["function"]["description"] = description
    answer = here.answer("What is the weather in Paris?", tools=tools)
    assert (answer.route, answer.text) == (Route.CLOUD, "from the cloud")
    names = [one["function"]["name"] for one in here.bodies()[0]["tools"]]
    assert names == [
        "tool_1",
        "tool_2",
        "tool_3",
        "tool_4",
        "get_weather",
        "create_issue",
        "spotify_play",
    ]
