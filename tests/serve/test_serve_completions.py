"""The legacy endpoint: text and token ids, several prompts, log-probabilities, streams."""

import openai
import pytest

from ptmo_secure.serve.routing import Routing
from ptmo_secure.types import Level, Route
from tests.fakes import FakeGuard
from tests.serve.serving import DONE, HELLO, MODEL, FakeRouter, serving, serving_model

GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 10}


def alone(served, ids, max_tokens=10):
    """What a scheduler-free engine answers to token ids."""
    engine = served.engine
    generation = engine.prepare(ids, max_tokens)
    with engine.open_session() as session:
        fed, text = list(ids), ""
        while generation.finish_reason is None:
            text += generation.push(session.feed(fed)[-1])
            fed = generation.history[-1:]
    return text


def test_text_and_its_token_ids_go_on_the_same(served, client):
    ids = served.engine.tokenizer.encode("hello there")
    by_text = client.completions.create(prompt="hello there", **GREEDY)
    by_ids = client.completions.create(prompt=ids, **GREEDY)
    assert by_text.choices[0].text == by_ids.choices[0].text == alone(served, ids)
    assert by_text.object == "text_completion" and by_text.id.startswith("cmpl-")
    assert by_text.usage.prompt_tokens == len(ids)
    assert by_text.x_ptmo["route"] == "local"


def test_the_guard_reads_a_prompt_of_token_ids_as_its_text(model):
    guard = FakeGuard("PRIVATE", 0.9)
    with serving_model(model, guard=guard) as served, served.client() as client:
        ids = served.engine.tokenizer.encode("hello there")
        answer = client.completions.create(prompt=ids, **GREEDY)
    assert guard.texts == ["hello there"] and answer.x_ptmo["level"] == "PRIVATE"


def test_a_prompt_is_no_chat(served, client):
    rendered = served.engine.render(HELLO)
    plain = client.completions.create(prompt=rendered.text, **GREEDY)
    as_ids = client.completions.create(prompt=list(rendered.ids), **GREEDY)
    # Names of control tokens in a text are text like any other.
    assert plain.usage.prompt_tokens > as_ids.usage.prompt_tokens == len(rendered.ids)


def test_several_prompts_have_choices_in_their_order(client):
    prompts = ["hello", "in the", "user on"]
    each = [
        client.completions.create(prompt=prompt, **GREEDY).choices[0].text for prompt in prompts
    ]
    together = client.completions.create(prompt=prompts, **GREEDY)
    assert [choice.text for choice in together.choices] == each
    twice = client.completions.create(prompt=prompts, n=2, **GREEDY)
    assert [choice.text for choice in twice.choices] == [t for text in each for t in (text, text)]
    assert twice.usage.prompt_tokens == together.usage.prompt_tokens
    assert twice.usage.completion_tokens == 2 * together.usage.completion_tokens


def test_log_probabilities_have_the_legacy_form(client):
    (choice,) = client.completions.create(prompt="hello", logprobs=3, **GREEDY).choices
    told = choice.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 10
    assert all(1 <= len(top) <= 3 for top in told.top_logprobs)
    for token, logprob, top in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert max(top.values()) == logprob == top[token]  # greedy
    assert told.text_offset[0] == 0 and told.text_offset == sorted(told.text_offset)


def test_a_stream_gives_the_same_text_offsets_and_usage(client):
    given = {"prompt": "hello", "logprobs": 2, **GREEDY}
    (whole,) = client.completions.create(**given).choices
    chunks = list(
        client.completions.create(stream=True, stream_options={"include_usage": True}, **given)
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.text
    assert chunks[-1].usage.completion_tokens == 10
    assert chunks[-2].choices[0].finish_reason == whole.finish_reason
    tokens = [
        token
        for c in chunks[:-1]
        if c.choices[0].logprobs
        for token in c.choices[0].logprobs.tokens
    ]
    assert tokens == whole.logprobs.tokens


def test_without_a_length_sixteen_tokens_are_made_as_in_the_api(client):
    answer = client.completions.create(prompt="hello", model=MODEL, temperature=0)
    assert answer.usage.completion_tokens <= 16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("suffix", "end"),
        ("best_of", 2),
        ("prompt", []),
        ("prompt", ["a"] * 9),
        ("prompt", [-1]),
        ("prompt", [10**9]),
        ("prompt", ""),
        ("logprobs", 21),
        ("n", 9),
    ],
    ids=str,
)
def test_what_is_not_supported_or_wrong_is_a_400_that_names_it(client, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"prompt": "hello", **GREEDY, field: value})
    names = {field, "token", "tokens", "prompt"} if field == "prompt" else {field}
    assert any(name in refused.value.message for name in names)


def test_prompts_are_routed_together_by_the_most_sensitive():
    levels = iter([(Level.PUBLIC, 0.1), (Level.PRIVATE, 0.9), (Level.PUBLIC, 0.0)])

    class Mixed(FakeRouter):
        async def route(self, request):
            return Routing(Route.LOCAL, *next(levels))

    with serving(Mixed([DONE])) as served, served.client() as client:
        answer = client.completions.create(prompt=["a", "b", "c"], **GREEDY)
    assert answer.x_ptmo["level"] == "PRIVATE"
    assert answer.x_ptmo["cost"]["usd"] == 0.75
