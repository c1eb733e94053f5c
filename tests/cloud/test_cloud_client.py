"""Answers of a provider as the client gives them: whole, streamed, with tools and logprobs."""

import math
import threading

import pytest

from ptmo_secure.cloud.providers import Provider, provider_at
from ptmo_secure.cloud.types import CloudDelta, CloudRequest, TokenLogprob
from ptmo_secure.errors import CloudError, InputError
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking

TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "id": "call_9xQ",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"what":"weather"}'},
}

pytestmark = pytest.mark.usefixtures("cleared")


def test_an_answer_comes_whole(make, server):
    server.script = [hostile.chat("Python is a language.", usage=(12, 5))]
    reply = make().complete(asking(max_tokens=50, stop=("\n",), seed=7))
    assert (reply.text, reply.finish_reason) == ("Python is a language.", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (12, 5)
    assert (reply.provider, reply.model, reply.usd) == ("here", "a-model", 0.0)
    assert reply.seconds > 0
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.json == {
        "model": "a-model",
        "messages": [{"role": "user", "content": "What is Python?"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "top_p": 1.0,
        "stop": ["\n"],
        "seed": 7,
    }


def test_headers_tell_nothing_of_the_machine_or_the_account(make, server, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    make().complete(asking())
    (request,) = server.requests
    assert set(request.headers) == {
        *("host", "user-agent", "accept", "accept-encoding", "connection"),
        *("content-type", "content-length"),
    }
    assert request.headers["user-agent"] == "ptmo-secure"


def test_the_key_comes_from_the_environment_and_is_sent_to_its_provider(make, server):
    client = make(environ={"PTMO_API_KEY": "sk-abc-123"})
    client.complete(asking())
    assert server.requests[0].headers["authorization"] == "bearer sk-abc-123"
    assert "sk-abc-123" not in repr(vars(client)) + repr(client.provider)


def test_an_answer_comes_in_chunks_that_make_the_whole(make, server):
    server.script = [hostile.stream(["Py", "thon", " \u2014 a", " language."], usage=(9, 4))]
    stream = make().stream(asking())
    texts = [delta.text for delta in stream]
    assert texts == ["Py", "thon", " \u2014 a", " language.", ""]
    assert stream.reply.text == "Python \u2014 a language."
    assert (stream.reply.prompt_tokens, stream.reply.completion_tokens) == (9, 4)
    assert server.requests[0].json["stream_options"] == {"include_usage": True}
    assert list(stream) == []


def test_tool_calls_come_whole_and_in_pieces(make, server):
    pieces = [
        {"index": 0, "id": "call_1", "function": {"name": "look_up", "arguments": ""}},
        {"index": 1, "id": "call_2", "function": {"name": "look_up", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '{"what":'}},
        {"index": 0, "function": {"arguments": '"weather"}'}},
    ]
    deltas = [hostile.event({"tool_calls": [piece]}) for piece in pieces]
    server.script = [
        hostile.chat(tool_calls=[CALL], reason="tool_calls"),
        hostile.events([*deltas, hostile.event({}, "tool_calls")]),
    ]
    client, request = make(), asking("What is the weather?", tools=(TOOL,))
    reply = client.complete(request)
    assert reply.tool_calls == (CALL,) and reply.finish_reason == "tool_calls" and reply.text == ""
    assert server.requests[0].json["tools"] == [TOOL]
    stream = client.stream(request)
    received = list(stream)
    assert [call["index"] for delta in received for call in delta.tool_calls] == [0, 1, 0, 0]
    first, second = stream.reply.tool_calls
    assert first["function"] == {"name": "look_up", "arguments": '{"what":"weather"}'}
    assert second["id"] == "call_2"


def test_ids_of_tool_calls_are_numbered_anew_and_still_fit(make, server):
    history = (
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "sk-2"}]},
        {"role": "tool", "tool_call_id": "sk-2", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_9xQ", "content": "it stays dry"},
    )
    make().complete(CloudRequest(history))
    sent = server.requests[0].json["messages"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_1", "call_2"]
    assert [sent[2]["tool_call_id"], sent[3]["tool_call_id"]] == ["call_2", "call_1"]
    assert history[1]["tool_calls"][0]["id"] == "call_9xQ"


def test_log_probabilities_come_with_their_bytes(make, server):
    tops = [("\u00e9", -2.0), ("a", -0.2)]
    logprobs = [hostile.token("a", -0.2, tops), hostile.token("\ufffd", -1.0, bytes=[0xE2])]
    server.script = [hostile.chat("a", logprobs=logprobs)]
    reply = make().complete(asking(top_logprobs=2))
    first, second = reply.positions
    assert first.chosen == TokenLogprob("a", b"a", -0.2)
    assert [one.token for one in first.top] == ["a", "\u00e9"]
    assert first.top[1].bytes == "\u00e9".encode()
    assert second.chosen.bytes == b"\xe2" and second.top == ()
    assert server.requests[0].json["logprobs"] is True
    assert server.requests[0].json["top_logprobs"] == 2


def test_a_stream_has_its_log_probabilities_too(make, server):
    chunk = hostile.event(
        {"content": "a"}, "stop", logprobs={"content": [hostile.token("a", -0.5, [("a", -0.5)])]}
    )
    server.script = [hostile.events([chunk])]
    (delta,) = make().stream(asking(top_logprobs=1))
    assert delta.positions[0].top == (TokenLogprob("a", b"a", -0.5),)


def test_the_legacy_endpoint_goes_on_with_a_prompt(make, server):
    logprobs = {
        "tokens": ["Par", "bytes:\\xc3"],
        "token_logprobs": [-0.1, -0.7],
        "top_logprobs": [{"Par": -0.1, "Lyon": -3.0}, {}],
        "text_offset": [0, 3],
    }
    choice = {"text": "Par", "index": 0, "finish_reason": "length", "logprobs": logprobs}
    server.script = [hostile.body({"choices": [choice]})]
    request = CloudRequest(None, prompt="The capital is", max_tokens=2, top_logprobs=2)
    reply = make().complete(request)
    assert (reply.text, reply.finish_reason) == ("Par", "length")
    assert [one.token for one in reply.positions[0].top] == ["Par", "Lyon"]
    assert reply.positions[1].chosen == TokenLogprob("\ufffd", b"\xc3", -0.7)
    assert server.requests[0].path == "/v1/completions"
    assert server.requests[0].json["prompt"] == "The capital is"


def test_a_partial_answer_is_continued_where_the_provider_can(make, server):
    vllm = Provider(
        "v", server.url, features=frozenset({"continue"}), continue_field="continue_final_message"
    )
    messages = (
        {"role": "user", "content": "Count to three."},
        {"role": "assistant", "content": "one, two"},
    )
    make(vllm).complete(CloudRequest(messages, continue_final=True))
    sent = server.requests[0].json
    assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False
    with pytest.raises(InputError, match="'continue'"):
        make().complete(CloudRequest(messages, continue_final=True))


@pytest.mark.parametrize(
    ("more", "feature"),
    [({"top_logprobs": 5}, "logprobs"), ({"tools": (TOOL,)}, "tools")],
)
def test_what_a_provider_cannot_do_is_said_before_anything_is_sent(make, server, more, feature):
    plain = Provider("plain", server.url)
    with pytest.raises(InputError, match=feature):
        make(plain).complete(asking(**more))
    assert server.received == b""


def test_the_first_model_that_is_listed_is_taken_when_none_is_named(make, server):
    server.script = [hostile.models("tiny-model", "other"), hostile.chat("a"), hostile.chat("b")]
    client = make(model=None)
    assert client.complete(asking()).model == "tiny-model"
    assert client.complete(asking()).text == "b"
    assert [request.method for request in server.requests] == ["GET", "POST", "POST"]
    assert client.name == "here/tiny-model"


def test_many_threads_get_their_own_answers(make, server, egress, vault):
    server.default = hostile.echo()
    client, wrong = make(), []

    def work(number):
        text = f"Say the word {'abcdefgh'[number] * 3}."
        for _ in range(5):
            with egress.clearance(vault, "test"):
                if client.complete(asking(text)).text != text:
                    wrong.append(number)
                joined = "".join(delta.text for delta in client.stream(asking(text)))
                if joined != text:
                    wrong.append(-number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == [] and len(server.requests) == 80


def test_prices_are_billed_by_the_providers_count_within_what_is_possible(make, server):
    from datetime import date

    from ptmo_secure.cloud.providers import ModelPrice

    model = ModelPrice("m", 2.0, 8.0, date(2026, 4, 1))
    priced = Provider("p", server.url, models={"m": model})
    server.script = [hostile.chat(usage=(1000, 500)), hostile.chat(usage=(10**9, 10**9))]
    client = make(priced, "m")
    text = "word " * 400
    assert client.complete(asking(text, max_tokens=600)).usd == pytest.approx(0.006)
    lied = client.complete(asking(text, max_tokens=600))
    assert lied.completion_tokens == 600 and 2000 < lied.prompt_tokens < 2500
    assert lied.usd == pytest.approx((2 * lied.prompt_tokens + 8 * 600) / 1e6)


def test_an_answer_without_a_count_is_billed_at_its_bounds(make, server):
    server.script = [hostile.chat("12345", usage=None), hostile.stream(["123"], usage=None)]
    client = make()
    reply = client.complete(asking(max_tokens=100))
    assert reply.completion_tokens == 5 and reply.prompt_tokens > len("What is Python?")
    stream = client.stream(asking(max_tokens=2))
    assert "".join(delta.text for delta in stream) == "123"
    assert stream.reply.completion_tokens == 2


def test_a_stream_that_was_not_read_has_no_reply(make, server):
    stream = make().stream(asking())
    with pytest.raises(InputError, match="not read to its end"):
        _ = stream.reply
    stream.close()
    assert list(stream) == [] and server.received == b""


def test_a_closed_stream_ends_and_its_connection_with_it(make, server):
    server.script = [hostile.stream(["a"] * 1000, pause_s=0.01)]
    stream = make().stream(asking())
    assert next(stream) == CloudDelta("a")
    stream.close()
    assert list(stream) == []


def test_another_thread_cuts_a_stream_that_waits(make, server):
    server.script = [hostile.silent()]
    stream = make().stream(asking(), deadline_s=60)
    timer = threading.Timer(0.3, stream.cancel)
    timer.start()
    with pytest.raises(CloudError):
        next(stream)
    timer.join()


def test_a_provider_elsewhere_needs_a_price_and_a_key(make):
    far = provider_at("https://models.example/v1")
    with pytest.raises(InputError, match="PTMO_API_KEY"):
        make(far)
    client = make(far, environ={"PTMO_API_KEY": "k"})
    with pytest.raises(InputError, match="no price"):
        client.complete(asking())


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_a_deadline_is_above_zero(make, bad):
    with pytest.raises(InputError, match="deadline_s"):
        make().complete(asking(), deadline_s=bad)
