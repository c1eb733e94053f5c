"""Errors in the OpenAI form: status, the field that is wrong, and no text of a user's."""

import json

import openai
import pytest

from ptmo_secure.errors import CapacityError, EngineError, InputError, TeeDiedError
from ptmo_secure.serve.routing import Piece
from tests.serve.serving import DONE, HELLO, MODEL, FakeRouter, serving

CANARY = "cana-ry7"
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
WRONG = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": CANARY}, "messages"),
    ({"messages": [{"role": CANARY, "content": "x"}]}, "messages[0].role"),
    ({"messages": [*HELLO, {"role": "user"}]}, "messages[1]"),
    ({"messages": [{"role": "tool", "content": CANARY}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": CANARY}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "body"),
    ({"tools": [{**TOOL, "x": "\udfff"}]}, "body"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stop": [CANARY] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": 2}, "body"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"logit_bias": {"5": 3}}, "logit_bias"),
    ({"stream_options": {"include_usage": True}}, "body"),
    ({"tool_choice": "required"}, "body"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "body",
    ),
    ({"functions": [TOOL["function"]]}, "functions"),
    ({"response_format": {"type": "json_schema"}}, "response_format.type"),
    ({"user": "u" * 129}, "user"),
    ({"x_ptmo": {"route": "cloud"}}, "x_ptmo.route"),
    ({"continue_final_message": True}, "body"),
]


@pytest.fixture(scope="module")
def fake():
    with serving(FakeRouter([Piece("ok"), DONE])) as served:
        yield served


@pytest.mark.parametrize(("change", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_a_400_that_names_it_and_quotes_nothing(fake, change, param):
    body = {"model": MODEL, "messages": HELLO, **change}
    status, told, _ = fake.post(CHAT, json.dumps(body))
    assert status == 400
    error = told["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].startswith(param) and "\n" not in error["message"]
    assert CANARY not in json.dumps(told)


@pytest.mark.parametrize("path", [CHAT, "/x-ptmo/preview"])
@pytest.mark.parametrize("place", [0, 2, 4, 7])
def test_a_place_to_keep_that_is_no_earlier_message_of_the_users_is_a_400(fake, path, place):
    roles = ("system", "user", "assistant", "user", "user")
    talk = [{"role": role, "content": CANARY} for role in roles]
    body = {"model": MODEL, "messages": talk, "x_ptmo": {"keep_messages": [1, place]}}
    before = len(fake.service.router.requests)
    status, told, _ = fake.post(path, json.dumps(body))
    error = told["error"]
    assert (status, error["param"]) == (400, "x_ptmo.keep_messages")
    assert error["message"].startswith("x_ptmo.keep_messages: ") and CANARY not in error["message"]
    assert len(fake.service.router.requests) == before
    body["x_ptmo"]["keep_messages"] = [1, 3]
    assert fake.post(CHAT, json.dumps(body))[0] == 200


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '"text"', "[" * 5000, '{"model":', "\xff"], ids=repr
)
def test_a_body_that_is_no_json_object_is_a_400(fake, body):
    status, told, _ = fake.post(CHAT, body)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")


def test_json_under_another_content_type_is_refused(fake):
    # A page elsewhere may send text/plain without asking first.
    body = json.dumps({"model": MODEL, "messages": HELLO})
    status, told, _ = fake.post(CHAT, body, "-H", "content-type: text/plain")
    assert status == 400 and "content-type" in told["error"]["message"]


def test_the_client_raises_its_own_errors(fake):
    with fake.client() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-9", messages=HELLO)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
        assert wrong.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as none:
            client.embeddings.create(model=MODEL, input="x")
        assert (none.value.code, none.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/models", 405)])
def test_paths_and_methods_that_are_not_there_are_told_in_the_same_form(fake, path, status):
    got, told, _ = fake.post(path, {})
    assert (got, told["error"]["param"]) == (status, None)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (InputError("the prompt has 900 tokens"), 400, "invalid_value"),
        (CapacityError("8 requests are waiting"), 503, "overloaded"),
        (TeeDiedError(), 503, "tee_died"),
        (EngineError("no memory"), 500, "run_failed"),
        (ValueError(CANARY), 500, "unexpected"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_fails_before_its_first_token_has_a_status(
    failure, status, code, stream, caplog
):
    with serving(FakeRouter([], failure)) as served:
        body = {"model": MODEL, "messages": HELLO, "stream": stream}
        got, told, headers = served.post(CHAT, body)
    assert (got, told["error"]["code"]) == (status, code)
    assert ("retry-after" in headers) == (status == 503)
    assert CANARY not in json.dumps(told) and CANARY not in caplog.text


def test_a_run_that_fails_later_ends_its_stream_with_an_error():
    with serving(FakeRouter([Piece("some")], EngineError("no memory"))) as served:
        with served.client() as client:
            seen = []
            with pytest.raises(openai.APIError, match="no memory"):
                for chunk in client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=True
                ):
                    seen.append(chunk.choices[0].delta.content)
            assert "".join(seen) == "some"


def test_a_prompt_longer_than_the_context_is_the_callers_mistake(client):
    long = [{"role": "user", "content": "x y " * 2600}]
    with pytest.raises(openai.BadRequestError, match=r"the context holds 2048"):
        client.chat.completions.create(model=MODEL, messages=long)


def test_the_clients_retries_get_through_a_server_that_is_full_for_a_moment():
    router = FakeRouter([], CapacityError("full"))
    with serving(router) as served, served.client(max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(router.requests) == 3


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"x_ptmo": {"Route": "local"}}, "x_ptmo.Route"),
        ({"x_ptmo": {"route": "local", "local": True}}, "x_ptmo.local"),
        ({"x_ptmo": {"keepLocal": [0]}}, "x_ptmo.keepLocal"),
        ({"x_ptmo": {"route": "Local"}}, "x_ptmo.route"),
        ({"X_ptmo": {"route": "local"}}, "body"),
        ({"x-ptmo": {"route": "local"}}, "body"),
        ({"xPtmo": {"route": "local"}}, "body"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/x-ptmo/preview"])
def test_a_misspelt_option_of_privacy_is_refused(more, field, path):
    router = FakeRouter()
    said = {"prompt": "hello"} if path == "/v1/completions" else {"messages": HELLO}
    with serving(router) as served:
        status, told, _ = served.post(path, {"model": MODEL, **said, **more})
    assert (status, told["error"]["param"]) == (400, field) and router.requests == []


@pytest.mark.parametrize("path", [CHAT, "/x-ptmo/preview"])
def test_an_option_in_a_header_that_is_not_known_is_refused(path):
    router = FakeRouter()
    with serving(router) as served:
        body = {"model": MODEL, "messages": HELLO}
        status, told, _ = served.post(path, body, "-H", "x-ptmo-route: local")
        assert (status, told["error"]["param"]) == (400, "headers") and router.requests == []
        assert served.post(path, body, "-H", "x-ptmo-user: ann")[0] == 200
