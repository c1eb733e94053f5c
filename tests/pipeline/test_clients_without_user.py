"""Clients of a server that name no user share a vault; what one told reaches no other's answer."""

import json
from contextlib import ExitStack

import pytest
from served_worlds import ScriptedDevice, served_world
from worlds import CARRIES

from tests.cloud import hostile_server as hostile
from tests.serve.serving import MODEL

PLAIN, LEAK = "What is Python?", "[PERSON_1] at [EMAIL_1], [SECRET_1]"
TOOL = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}


@pytest.fixture
def here(guard, tmp_path):
    with ExitStack() as held:
        yield held.enter_context(served_world(tmp_path, guard, ScriptedDevice()))


@pytest.mark.parametrize("stream", [False, True])
def test_what_one_told_is_not_filled_into_anothers_answer(here, stream):
    here.says(hostile.stream([LEAK]))
    first, _ = here.ask(CARRIES, user=None, stream=stream)
    assert first == "Dr. Andre Novak at andre@novak.org, [SECRET_1]"
    here.ask("My password is secret123.", user=None)
    assert here.ask(PLAIN, user=None, stream=stream)[0] == LEAK
    assert here.ask("Write to ben@oak.example about rye.", user=None, stream=stream)[0] == LEAK


def test_what_one_told_is_not_filled_into_anothers_tool_calls(here):
    here.ask(CARRIES, user=None)
    function = {"name": "send", "arguments": json.dumps({"to": LEAK})}
    piece = {"index": 0, "id": "call_1", "type": "function", "function": function}
    asked = hostile.event({"tool_calls": [piece]})
    here.says(hostile.events([asked, hostile.event({}, "tool_calls")]))
    messages = [{"role": "user", "content": PLAIN}]
    answer = here.client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"to": LEAK}


def test_a_value_of_one_is_withheld_for_all_without_a_user_and_for_no_other(here):
    assert here.ask(PLAIN, user=None)[1]["route"] == "cloud"
    assert here.ask("My password is Python.", user=None)[1]["route"] == "local"
    before = len(here.bodies())
    assert here.ask(PLAIN, user=None)[1]["route"] == "local"
    assert len(here.bodies()) == before
    assert here.ask(PLAIN, user="ann")[1]["route"] == "cloud"
    named = {"extra_body": {"x_ptmo": {"session": "another"}}}
    assert here.ask(PLAIN, user=None, **named)[1]["route"] == "cloud"
