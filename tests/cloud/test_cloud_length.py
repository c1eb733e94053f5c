"""An answer is as long as was asked for at most, whatever a server makes of `max_tokens`."""

import pytest

from ptmo_secure.cloud.length import Length
from ptmo_secure.cloud.types import CloudDelta
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking
from tests.cloud.hostile_server import message, token

pytestmark = pytest.mark.usefixtures("cleared")
BOUND = 128 + 16 * 8  # characters of eight tokens
CALL = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


def test_a_stream_without_an_end_is_left_at_the_bound_and_billed_as_long_as_it_may_be(make, server):
    server.default = hostile.endless({"content": "word "})
    client = make()
    stream = client.stream(asking(max_tokens=8))
    text = "".join(delta.text for delta in stream)
    assert text == ("word " * 100)[:BOUND]
    reply = stream.reply
    assert (reply.text, reply.finish_reason, reply.completion_tokens) == (text, "length", 8)
    server.default = hostile.chat("fine")  # the breaker took it for an answer, the socket is free
    assert client.complete(asking()).text == "fine"


def test_the_arguments_of_a_call_count_as_the_text_does(make, server):
    first = {"index": 0, "id": "c", "function": {"name": "look_up", "arguments": '{"a":"'}}
    more = {"index": 0, "function": {"arguments": "x" * 20}}
    server.default = hostile.endless({"tool_calls": [first]}, {"tool_calls": [more]})
    stream = make().stream(asking(max_tokens=8))
    deltas = list(stream)
    said = sum(len(c["function"]["arguments"]) for delta in deltas for c in delta.tool_calls)
    assert BOUND - 100 < said <= BOUND and stream.reply.finish_reason == "length"


def test_with_log_probabilities_tokens_are_counted(make, server):
    some = [token(text) for text in ("Py", "th", "\u00e9", " is", " it")]
    whole = message("Pyth\u00e9 is it", logprobs=some)
    chunks = [
        hostile.event({"content": "Pyth"}, logprobs={"content": some[:2]}),
        hostile.event({"content": "\u00e9 is it"}, logprobs={"content": some[2:]}),
    ]
    server.script = [hostile.body(whole), hostile.events([*chunks, hostile.event({}, "stop")])]
    client, asked = make(), asking(max_tokens=3, top_logprobs=1)
    reply = client.complete(asked)
    stream = client.stream(asked)
    text = "".join(delta.text for delta in stream)
    assert reply.text == text == stream.reply.text == "Pyth\u00e9"
    assert len(reply.positions) == len(stream.reply.positions) == 3
    assert reply.finish_reason == stream.reply.finish_reason == "length"


def test_an_answer_that_comes_whole_is_cut_as_well(make, server):
    long = {**CALL, "function": {"name": "look_up", "arguments": "1" * 999}}
    server.script = [hostile.chat("x" * 999), hostile.chat(tool_calls=[CALL, long])]
    client = make()
    reply = client.complete(asking(max_tokens=8))
    assert (reply.text, reply.finish_reason) == ("x" * BOUND, "length")
    reply = client.complete(asking(max_tokens=8))
    assert reply.tool_calls == (CALL,) and reply.finish_reason == "length"


@pytest.mark.parametrize("text", ["=" * 128, "\u0928\u092e\u0938\u094d\u0924\u0947" * 20])
def test_one_token_of_the_longest_is_within_the_bound(text):
    length = Length(1)
    assert length.take(CloudDelta(text, finish_reason="stop")).text == text
    assert not length.passed


def test_an_answer_of_just_the_length_keeps_its_own_end():
    length = Length(8)
    assert length.take(CloudDelta("x" * (BOUND - 1))) == CloudDelta("x" * (BOUND - 1))
    assert length.take(CloudDelta("y", finish_reason="stop")) == CloudDelta("y", (), "stop")
    assert not length.passed
    assert length.take(CloudDelta("z")) == CloudDelta("", (), "length") and length.passed
