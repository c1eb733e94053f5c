"""I1 for tools: no value in a word of a definition or call reaches a cloud, however it is spelt."""

import json
import random
import re

import pytest

from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
from tests.cloud import hostile_server as hostile

SAID = "Write an email to Andre Novak at andre@novak-mail.org about his call from 010-1234-5678."
VALUES = ("Andre Novak", "andre@novak-mail.org", "010-1234-5678")
FORMS = (
    lambda value: re.sub(r"\W+", "_", value),
    lambda value: re.sub(r"\W+", "-", value).lower(),
    lambda value: re.sub(r"\W+(.)", lambda end: end[1].upper(), value),
    lambda value: re.sub(r"\W+", "", value).upper(),
    lambda value: "_".join(re.sub(r"\W+", "", value)),
)
AROUND = ("{}", "call_{}", "{}_of_roof", "get{}Now")


def squeezed(text):
    return re.sub(r"[\W_]+", "", text).lower()


def definition(draw):
    """A tool with a value of the user's somewhere, and a call of it."""

    def word():
        return draw.choice(AROUND).format(draw.choice(FORMS)(draw.choice(VALUES)))

    places = draw.sample(("name", "key", "text", "enum", "default", "nested"), draw.randint(1, 3))
    key = word() if "key" in places else "town"
    schema = {"type": "string", "description": "Where."}
    schema |= {"description": f"Where {word()} is."} if "text" in places else {}
    schema |= {"enum": ["here", word()]} if "enum" in places else {}
    schema |= {"default": word()} if "default" in places else {}
    inner = {"type": "object", "properties": {word(): {"type": "string"}}}
    properties = {key: schema} | ({"more": inner} if "nested" in places else {})
    parameters = {"type": "object", "properties": properties, "required": [key]}
    name = (word() if "name" in places else "look_up")[:64]
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    function = {"name": name, "arguments": json.dumps({key: "Rome"})}
    return tool, {"id": "c", "type": "function", "function": function}


def fuzz(make, count, seed):
    draw, here = random.Random(seed), make(budget=PrivacyBudget(BudgetLimits(1e9, 1e9)))
    here.says(hostile.stream(["ok"]))
    asked = [{"role": "user", "content": SAID}]
    went = 0
    for _ in range(count):
        here.server.forget()
        tool, call = definition(draw)
        talk = [
            *asked,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "Sunny."},
        ]
        answer = here.answer(draw.choice((asked, talk)), tools=[tool])
        went += answer.text == "ok"
        received = squeezed(here.server.received.decode("utf-8", "replace"))
        leaked = [value for value in VALUES if squeezed(value) in received]
        assert leaked == [], (tool, call, here.server.received)
    return went


def test_no_value_in_a_tool_reaches_the_cloud(make):
    assert fuzz(make, 60, seed=1) > 40  # one that sends nothing would pass as well


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_value_in_very_many_tools_reaches_the_cloud(make):
    assert fuzz(make, 3000, seed=2) > 1500
