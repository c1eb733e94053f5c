"""SmolLM2 on the device, Gemma-3 in the cloud's role, on a public text."""

import math
from pathlib import Path

import numpy as np
import pytest
from fusion.cloud_role import EngineCloud
from fusion.positions import pair_text
from fusion.texts import QUESTIONS, documents
from fusion_fidelity import chat, top_of

from ptmo_secure.cloud.fusion import (
    EntropyWeight,
    FixedWeight,
    FusedDecoder,
    FusionConfig,
    PublicView,
    as_it_is,
)
from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.mix import fuse, join, mix
from ptmo_secure.engine import registry
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from tests.cloud.fusion_doubles import DeadCloud

pytestmark = pytest.mark.timeout(600)


def pulled(model) -> Path:
    try:
        return registry.resolve(model)
    except InputError:
        pytest.skip(f"{model} is not pulled (ptmo model pull {model})")


def load(model):
    return Engine.load(pulled(model), shield="none", threads=1, context_tokens=512)


@pytest.fixture(scope="module")
def device():
    with load("smollm2-135m") as engine:
        yield engine


@pytest.fixture(scope="module")
def paired(device):
    with load("gemma3-270m") as engine, EngineCloud(engine) as cloud:
        tokens = TokenMap(device.tokenizer)
        return [pair_text(device, cloud, tokens, text[:450], 20) for text in documents()[:3]]


@pytest.mark.parametrize("weight", [FixedWeight(0.5), EntropyWeight()], ids=["half", "entropy"])
@pytest.mark.parametrize("rule", ["product", "linear"])
def test_the_clouds_20_logprobs_lower_the_devices_loss_across_tokenizers(paired, weight, rule):
    pairs = [pair for text in paired for pair in text.pairs]
    gains = np.array(
        [
            0.0
            if pair.atoms is None
            else pair.device_loss + fuse(pair.atoms, weight.share(pair.atoms), rule)[pair.token]
            for pair in pairs
        ]
    )
    assert len(gains) > 250
    assert gains.mean() > 2 * gains.std() / math.sqrt(len(gains))


def test_almost_every_position_lines_up(paired):
    pairs = [pair for text in paired for pair in text.pairs]
    assert np.mean([pair.atoms is not None for pair in pairs]) >= 0.96


def test_twenty_logprobs_choose_the_token_of_full_fusion(device):
    same, divergence = [], []
    for question in QUESTIONS[:4]:
        for place in chat(device, question, 24):
            whole = mix(place.log_cloud, place.device.log_p, 0.5, "product")
            ours = fuse(join(place.device, top_of(place.log_cloud, 20)), 0.5, "product")
            same.append(whole.argmax() == ours.argmax())
            divergence.append(float(np.exp(whole) @ (whole - ours)))
    assert np.mean(same) >= 0.985
    assert np.mean(divergence) <= 0.06


def test_drafts_take_at_most_a_quarter_of_a_request_a_token(device):
    settings = FusionConfig(weight=FixedWeight(0.5), deadline_s=60.0, timeout_s=60.0)
    made = requests = 0
    with load("smollm2-135m") as engine, EngineCloud(engine) as cloud:
        decoder = FusedDecoder(device, cloud, settings)
        for question in QUESTIONS[:3]:
            asked = {"role": "user", "content": question.public}
            known = {"role": "system", "content": question.private}
            for _ in decoder.generate([known, asked], PublicView(as_it_is, messages=(asked,)), 24):
                pass
            made += decoder.last_run.tokens
            requests += decoder.last_run.requests
        assert all(question.private not in seen for question in QUESTIONS for seen in cloud.seen)
    assert made >= 60
    assert requests / made <= 0.25


def test_with_the_cloud_dead_the_answer_is_the_devices_own(device):
    asked = [{"role": "user", "content": QUESTIONS[0].public}]
    decoder = FusedDecoder(device, DeadCloud(), FusionConfig(ask_margin=math.inf))
    fused = "".join(decoder.generate(asked, PublicView(as_it_is, messages=tuple(asked)), 24))
    assert fused == "".join(device.generate(asked, 24))
