"""Chat by the unmodified openai client: whole, streamed, several choices, log-probabilities."""

import json
import math

import numpy as np
import openai
import pytest

from ptmo_secure.serve.routing import Piece
from tests.fakes import FakeGuard
from tests.serve.serving import (
    DONE,
    HELLO,
    MODEL,
    FakeRouter,
    run_curl,
    serving,
    serving_model,
    text_of,
)

GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 12}
SMILES = ["héllo ", "안녕 ", "😀", "👨‍👩‍👧", "\u2028", "end"]


def alone(served, messages=HELLO, max_tokens=12, **fields):
    """What the engine answers without a server."""
    served.engine.reset()
    return "".join(served.engine.generate(messages, max_tokens, **fields))


def test_a_greedy_answer_is_the_engines_own(served, client):
    answer = client.chat.completions.create(messages=HELLO, **GREEDY)
    (choice,) = answer.choices
    assert choice.message.content == alone(served) != ""
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.id.startswith("chatcmpl-")
    prompt = len(served.engine.render(HELLO).ids)
    used = answer.usage
    assert (used.prompt_tokens, used.completion_tokens) == (prompt, 12)
    assert used.total_tokens == prompt + 12


def test_a_stream_gives_the_same_text_then_its_end_and_its_usage(served, client):
    chunks = list(
        client.chat.completions.create(
            messages=HELLO, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == alone(served)
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "length"
    ]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-2].x_ptmo["route"] == "local"


def test_a_stream_without_asking_has_no_usage(client):
    chunks = list(client.chat.completions.create(messages=HELLO, stream=True, **GREEDY))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_async_client_streams_as_well(served):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
            stream = await client.chat.completions.create(messages=HELLO, stream=True, **GREEDY)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

    assert asyncio.run(ask()) == alone(served)


def test_what_only_this_server_tells_stands_in_the_answer_and_its_headers(model):
    guard = FakeGuard("PRIVATE", 0.9)
    with serving_model(model, guard=guard) as served, served.client() as client:
        raw = client.chat.completions.with_raw_response.create(messages=HELLO, **GREEDY)
        told = raw.parse().x_ptmo
    assert (told["route"], told["level"], told["score"]) == ("local", "PRIVATE", 0.9)
    assert (told["found"], told["masked"], told["shield"]) == ({"SECRET": 1}, {}, "seal")
    assert told["cost"]["usd"] == 0.0 and told["cost"]["seconds"] > 0
    assert told["crossings"] >= 1
    assert raw.headers["x-ptmo-route"] == "local"
    assert raw.headers["x-ptmo-level"] == "PRIVATE"
    assert raw.headers["x-ptmo-masked"] == "none"
    assert int(raw.headers["x-ptmo-crossings"]) == told["crossings"]
    assert guard.texts == ["hello there"]


def test_a_guard_that_fails_makes_a_request_private(model):
    guard = FakeGuard(fails=RuntimeError("broken"))
    with serving_model(model, guard=guard) as served, served.client() as client:
        answer = client.chat.completions.create(messages=HELLO, **GREEDY)
    assert (answer.x_ptmo["level"], answer.x_ptmo["route"]) == ("PRIVATE", "local")


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_draw_by_seeds_of_their_own_and_again_the_same(client, stream):
    def ask():
        given = {**GREEDY, "temperature": 1.4, "n": 3, "seed": 7, "messages": HELLO}
        if stream:
            chunks = list(client.chat.completions.create(stream=True, **given))
            return [text_of(chunks, index) for index in range(3)]
        answer = client.chat.completions.create(**given)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.completion_tokens <= 36
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(served, client):
    whole = alone(served, max_tokens=24)
    stop = whole[5:8]
    given = {**GREEDY, "max_tokens": 24, "messages": HELLO}
    for wanted in (stop, ["never there", stop]):
        (choice,) = client.chat.completions.create(stop=wanted, **given).choices
        assert choice.message.content == whole[: whole.index(stop)]
        assert choice.finish_reason == "stop"
    chunks = client.chat.completions.create(stop=stop, stream=True, **given)
    assert text_of(chunks) == whole[: whole.index(stop)]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_has_at_most_the_tokens_asked_for(client, name):
    given = {"messages": HELLO, "model": MODEL, "temperature": 0, name: 5}
    answer = client.chat.completions.create(**given)
    assert answer.usage.completion_tokens <= 5


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_the_models_logits(served, client, stream):
    given = {**GREEDY, "messages": HELLO, "logprobs": True, "top_logprobs": 20}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, **given))
        found = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
        content = [each for logprobs in found for each in logprobs.content]
        text = text_of(chunks)
    else:
        (choice,) = client.chat.completions.create(**given).choices
        content, text = choice.logprobs.content, choice.message.content
    tokenizer = served.engine.tokenizer
    ids = list(served.engine.render(HELLO).ids)
    assert len(content) == 12
    said = [bytes(each.bytes) for each in content if not each.token.startswith("[PAD")]
    assert b"".join(said).decode("utf-8", "replace") == text
    for each in content:
        logits = served.engine.forward(ids)[-1].astype(np.float64)
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        best = np.argsort(-logprobs, kind="stable")[:20]
        assert np.allclose([t.logprob for t in each.top_logprobs], logprobs[best], atol=1e-9)
        names = [tokenizer.token_bytes(int(index), special=True) for index in best]
        assert [bytes(t.bytes) for t in each.top_logprobs] == names
        assert each.logprob == each.top_logprobs[0].logprob  # greedy
        assert math.isfinite(each.logprob) and each.logprob <= 0
        ids.append(int(best[0]))


def test_log_probabilities_without_alternatives(client):
    (choice,) = client.chat.completions.create(messages=HELLO, logprobs=True, **GREEDY).choices
    assert len(choice.logprobs.content) == 12
    assert all(each.top_logprobs == [] for each in choice.logprobs.content)


def test_sampling_does_not_change_what_the_model_held_likely(client):
    given = {**GREEDY, "temperature": 2, "seed": 3, "messages": HELLO, "max_tokens": 1}
    (hot,) = client.chat.completions.create(logprobs=True, top_logprobs=5, **given).choices
    given["temperature"] = 0
    (cold,) = client.chat.completions.create(logprobs=True, top_logprobs=5, **given).choices
    tops = [[(t.token, t.logprob) for t in c.logprobs.content[0].top_logprobs] for c in (hot, cold)]
    assert tops[0] == tops[1]


def test_a_message_of_parts_is_their_text_and_a_developer_is_the_system(served, client):
    messages = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}],
        },
    ]
    plain = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(messages=messages, **GREEDY)
    assert answer.choices[0].message.content == alone(served, plain)


def test_a_partial_answer_is_continued_token_by_token(served, client):
    ids = list(served.engine.render(HELLO).ids) + served.engine.tokenizer.encode("hello")
    partial = [*HELLO, {"role": "assistant", "content": "hello"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = client.chat.completions.create(messages=partial, extra_body=extra, **GREEDY)
    completion = client.completions.create(prompt=ids, **GREEDY)
    assert answer.choices[0].message.content == completion.choices[0].text
    assert answer.usage.prompt_tokens == len(ids)


def test_characters_of_several_bytes_arrive_whole_whatever_the_chunks():
    router = FakeRouter([*(Piece(text) for text in SMILES), DONE])
    with serving(router) as served, served.client() as client:
        stream = client.chat.completions.create(messages=HELLO, stream=True, **GREEDY)
        assert text_of(stream) == "".join(SMILES)
        body = json.dumps({"messages": HELLO, "stream": True, **GREEDY})
        given = ["-H", "content-type: application/json", "--data-binary", body]
        raw = run_curl(f"{served.url}/v1/chat/completions", *given)
    events = raw.partition(b"\r\n\r\n")[2].split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    told = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]  # each is UTF-8
    texts = [choice["delta"].get("content") for each in told for choice in each["choices"]]
    assert [text for text in texts if text] == SMILES


def test_characters_that_the_model_splits_over_tokens_are_not_split_in_chunks(served, client):
    messages = [{"role": "user", "content": "안녕하세요 😀"}]
    given = {**GREEDY, "temperature": 1.9, "seed": 5, "max_tokens": 200, "messages": messages}
    stream = list(client.chat.completions.create(stream=True, **given))
    whole = client.chat.completions.create(**given).choices[0].message.content
    assert text_of(stream) == whole
    assert any(ord(char) > 127 for char in whole)
    for chunk in stream:
        (chunk.choices[0].delta.content or "").encode()  # no half of a surrogate pair


def test_models_are_listed_and_found_one_by_one(client):
    assert [each.id for each in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "ptmo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_health_and_metrics_say_what_was_answered(served, client):
    client.chat.completions.create(messages=HELLO, **GREEDY)
    assert served.get("/health")[:2] == (200, {"status": "ok", "model": MODEL})
    status, text, headers = served.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    figures = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(figures['ptmo_requests_total{endpoint="/v1/chat/completions",status="200"}']) >= 1
    assert float(figures['ptmo_tokens_total{kind="completion"}']) >= 12
    assert float(figures['ptmo_routes_total{level="PUBLIC",route="local"}']) >= 1
    assert float(figures["ptmo_first_token_seconds_count"]) >= 1
    assert float(figures["ptmo_running"]) == 0
