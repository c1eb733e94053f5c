"""The default model and the real guard, as a user starts them."""

import json

import pytest

from ptmo_secure.engine import registry
from ptmo_secure.errors import InputError
from tests.serve.serving import ServeProcess, text_of

MODEL = "smollm2-135m"
QUERY = "My password is secret123. What is Python?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    try:
        registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    with ServeProcess(tmp_path_factory.mktemp("state"), "--threads", "1") as process:
        yield process
        assert process.end() == (0, "")


@pytest.fixture
def client(process):
    with process.served.client(timeout=200) as client:
        yield client


def ask(client, text, **fields):
    given = {"model": MODEL, "temperature": 0, "max_tokens": 24, **fields}
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **given)


def test_it_answers_and_says_what_the_guard_found(client):
    answer = ask(client, QUERY)
    assert "Python" in answer.choices[0].message.content
    told = answer.x_ptmo
    assert (told["level"], told["route"]) == ("SEMI_SENSITIVE", "local")
    assert told["score"] == pytest.approx(0.75, abs=0.02)
    assert told["found"] == {"SECRET": 1} and "secret123" not in json.dumps(told)
    assert text_of(ask(client, QUERY, stream=True)) == answer.choices[0].message.content


def test_the_preview_tells_the_parts_of_a_message(process):
    body = {"messages": [{"role": "user", "content": QUERY}]}
    status, told, headers = process.served.post("/x-ptmo/preview", body)
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert headers["x-ptmo-level"] == told["level"] == "SEMI_SENSITIVE"
    parts = [
        (part["text"], part["level"], part["route"], part["sent"]) for part in told["segments"]
    ]
    assert parts == [
        ("My password is secret123.", "PRIVATE", "local", None),
        ("What is Python?", "PUBLIC", "local", None),
    ]
    whole = "".join(part["text"] + part["separator"] for part in told["segments"])
    assert whole == QUERY


def test_it_calls_a_function_that_has_to_be_called(client):
    text = "What is the weather in Paris?"
    answer = ask(client, text, tools=[WEATHER], tool_choice="required", max_tokens=48)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments), dict)


def test_the_next_turn_of_a_user_computes_only_what_is_new(client):
    first = ask(client, "Name a fruit.", user="ann")
    messages = [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Another."},
    ]
    again = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=4, user="ann"
    )
    used = again.usage
    assert used.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert used.prompt_tokens_details.cached_tokens < used.prompt_tokens
