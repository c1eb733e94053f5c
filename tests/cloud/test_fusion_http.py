"""Fusion over a real connection: the OpenAI SDK, egress with its guard, a server on loopback."""

import json
import math
from dataclasses import replace

import pytest

from ptmo_secure.cloud.fusion import FixedWeight, FusedDecoder, FusionConfig, PublicView, as_it_is
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.engine.engine import Engine
from tests.cloud import hostile_server as hostile
from tests.cloud.fusion_doubles import continuing
from tests.tiny_models import make_tiny_model

SAYS = "The sky is blue because air scatters short waves of light more than long ones."
ASKED = {"role": "user", "content": "Why is the sky blue?"}
KNOWN = {"role": "system", "content": "the code word is zq7xk9"}
VIEW = PublicView(as_it_is, messages=(ASKED,))
FOLLOW = {"weight": FixedWeight(0.0), "ask_margin": math.inf, "deadline_s": 20.0, "timeout_s": 20.0}


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    path = make_tiny_model(tmp_path_factory.mktemp("device"), seed=1).path
    with Engine.load(path, shield="none", threads=1) as engine:
        yield engine


@pytest.fixture
def cloud(server, make):
    known = provider_at(server.url, "here")
    features = known.features | {"continue"}
    return make(replace(known, features=features, continue_field="continue_final_message"))


def answer(device, cloud, tokens=200, **settings):
    decoder = FusedDecoder(device, cloud, FusionConfig(**{**FOLLOW, **settings}))
    text = "".join(decoder.generate([KNOWN, ASKED], VIEW, tokens))
    return text, decoder.last_run


def alone(device, tokens):
    return "".join(device.generate([KNOWN, ASKED], tokens))


def test_a_device_that_takes_no_share_writes_what_the_cloud_says_chunk_by_chunk(
    device, cloud, server, cleared
):
    server.default = continuing(SAYS)
    text, run = answer(device, cloud, chunk_tokens=16)
    assert text == SAYS
    assert run.finish_reason == "stop"
    assert run.fused == run.tokens == len(SAYS) + 1  # the end is a token too
    assert run.requests == len(server.requests) == -(-len(SAYS) // 16)


def test_the_server_gets_the_public_part_and_nothing_else(device, cloud, server, cleared):
    server.default = continuing(SAYS)
    answer(device, cloud, chunk_tokens=16)
    assert len(server.requests) >= 4
    assert b"zq7xk9" not in server.received
    for request in server.requests:
        first, *rest = request.json["messages"]
        assert first == ASKED
        assert all(SAYS.startswith(message["content"]) for message in rest)
        assert request.json["top_logprobs"] == 20


def test_without_a_clearance_nothing_is_sent_and_the_device_answers_alone(device, cloud, server):
    server.default = continuing(SAYS)
    text, run = answer(device, cloud, tokens=24)
    assert text == alone(device, 24)
    assert server.received == b""
    assert run.failures == {"refused": 1}


def test_a_value_of_the_vault_that_the_cloud_lures_into_the_answer_never_comes_back(
    device, cloud, server, egress, vault
):
    masked = vault.mask("My password is tangerine-4471, what is Python?")
    assert "tangerine" not in masked.text
    server.default = continuing("Your password is tangerine-4471 and Python is a language.")
    with egress.clearance(vault, "test", user="ann", session="s1"):
        text, run = answer(device, cloud, chunk_tokens=36)
    assert text.startswith("Your password is tangerine-4471")
    assert run.failures == {"refused": 1}
    assert len(server.requests) == 1
    assert b"tangerine" not in server.received


BAD = {
    "500": hostile.status(500),
    "429": hostile.status(429, retry_after="1"),
    "hangs up": hostile.hang_up(),
    "half-closed": hostile.half_closed(),
    "cut short": hostile.cut_short(),
    "silent": hostile.silent(),
    "drips": hostile.drip(),
    "50 MB": hostile.huge(),
    "no logprobs": hostile.stream(["blue", " sky"]),
    **{f"malformed: {name}": hostile.body(data) for name, data in hostile.MALFORMED.items()},
    **{
        f"wrong logprobs: {name}": hostile.events(
            [hostile.event({"content": "a"}, logprobs={"content": wrong})]
        )
        for name, wrong in hostile.WRONG_LOGPROBS.items()
        if name != "no_number"  # in quotes: the SDK's models read it all the same
    },
}


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD)
@pytest.mark.parametrize("streaming", [True, False])
def test_with_a_hostile_server_it_is_the_device_alone_token_for_token(
    device, cloud, server, cleared, behaviour, streaming
):
    server.default = behaviour
    text, run = answer(device, cloud, 4, deadline_s=1.0, timeout_s=1.0, streaming=streaming)
    assert text == alone(device, 4)
    assert run.fused == 0
    assert len(server.requests) >= 1


def test_an_answer_that_asks_for_the_vault_is_text_like_any_other(device, cloud, server, cleared):
    server.default = continuing(hostile.INJECTION)
    text, _ = answer(device, cloud, chunk_tokens=200, tokens=400)
    assert text == hostile.INJECTION
    assert len(server.requests) == 1
    assert json.loads(server.requests[0].body)["messages"] == [ASKED]
