"""Fused decoding with real engines: tiny models on the device and in the cloud's role."""

import contextvars
import math
import threading

import numpy as np
import pytest
from fusion.cloud_role import EngineCloud

from ptmo_secure.cloud.fusion import (
    FixedWeight,
    FusedDecoder,
    FusionConfig,
    PublicView,
    as_it_is,
    never,
)
from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.fuser import Fuser
from ptmo_secure.cloud.fusion.mix import DeviceView, mix
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import CloudError, InputError
from tests import tiny_models
from tests.cloud.fusion_doubles import DeadCloud, ScriptedCloud, Step, position
from tests.test_examples import examples
from tests.tiny_models import VOCAB_SIZE, make_hf_model

SECRET = "zq7xk9"
ASKED = {"role": "user", "content": "hello there"}
KNOWN = {"role": "system", "content": f"the code is {SECRET}"}
ALWAYS = {"ask_margin": math.inf, "deadline_s": 20.0, "timeout_s": 30.0}
VIEW = PublicView(as_it_is, messages=(ASKED,))


def load(folder, seed):
    """A tiny model that writes printable ASCII: of the other tokens the logits are 0."""
    tokens, _ = tiny_models.vocabulary()
    shown = [text.isascii() and text.isprintable() and text[0] not in "<[" for text in tokens]

    def printable(**settings):
        hf = make_hf_model(**settings)
        for index, keep in enumerate(shown):
            hf.lm_head.weight.data[index] *= 6.0 if keep else 0.0
        return hf

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_models, "make_hf_model", printable)
        path = tiny_models.make_tiny_model(folder, seed=seed).path
    return Engine.load(path, shield="none", threads=1, activations="fp32", kv_dtype="fp32")


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    with load(tmp_path_factory.mktemp("device"), seed=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def cloud_engine(tmp_path_factory):
    with load(tmp_path_factory.mktemp("cloud"), seed=2) as engine:
        yield engine


@pytest.fixture
def cloud(cloud_engine):
    with EngineCloud(cloud_engine) as made:
        yield made


def answer(device, cloud, prompt=(KNOWN, ASKED), view=VIEW, tokens=24, config=None, **options):
    decoder = FusedDecoder(device, cloud, FusionConfig(**{**ALWAYS, **(config or {})}))
    text = "".join(decoder.generate(list(prompt), view, tokens, **options))
    return text, decoder.last_run


def alone(device, prompt=(KNOWN, ASKED), tokens=24, **options):
    return "".join(device.generate(list(prompt), tokens, **options))


@pytest.mark.parametrize(
    "sampling",
    [None, SamplingParams(temperature=0.9, top_p=0.95, seed=11)],
    ids=["greedy", "drawn"],
)
def test_with_a_dead_cloud_it_is_the_device_alone_token_for_token(device, sampling):
    expected = alone(device, sampling=sampling)
    text, run = answer(device, DeadCloud(), sampling=sampling)
    assert text == expected
    assert run.fused == 0
    assert run.failures["failed"] >= 1


def expected_by_full_fusion(device, cloud_engine, tokens, weight):
    """Greedy decoding over both whole distributions, worked out here."""
    made = []
    with device.open_session() as own, cloud_engine.open_session() as other:
        left = own.feed(device.render([KNOWN, ASKED]).ids)[-1]
        right = other.feed(cloud_engine.render([ASKED]).ids)[-1]
        while len(made) < tokens:
            both = mix(DeviceView.of(right).log_p, DeviceView.of(left).log_p, weight, "product")
            made.append(int(both.argmax()))
            if made[-1] in device.tokenizer.stop_ids:
                break
            left, right = own.feed(made[-1:])[-1], other.feed(made[-1:])[-1]
    return made


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("streaming", [True, False])
def test_every_token_is_the_fused_one_however_the_cloud_drafts(
    device, cloud, cloud_engine, chunk, streaming
):
    """The cloud lists all 320 tokens here, so that nothing is lost; the paths differ at once."""
    cloud.top = lambda logits, count: EngineCloud.top(cloud, logits, VOCAB_SIZE - 1)
    config = {"weight": FixedWeight(0.5), "chunk_tokens": chunk, "streaming": streaming}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ptmo_secure.cloud.fusion.align.MAX_TOKENS", VOCAB_SIZE)
        text, run = answer(device, cloud, tokens=12, config=config)
    expected = expected_by_full_fusion(device, cloud_engine, 12, 0.5)
    assert text == device.tokenizer.decode(
        [token for token in expected if token not in device.tokenizer.stop_ids]
    )
    assert run.fused == run.tokens


def test_with_no_share_of_its_own_the_device_follows_the_clouds_path(device, cloud, cloud_engine):
    text, run = answer(device, cloud, config={"weight": FixedWeight(0.0), "chunk_tokens": 8})
    assert text == alone(cloud_engine, prompt=(ASKED,))
    assert run.requests == math.ceil(run.tokens / 8)


def test_equal_seeds_draw_equal_answers_from_the_fused_distribution(device, cloud):
    def drawn(seed):
        return answer(device, cloud, sampling=SamplingParams(temperature=1.0, seed=seed))[0]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3) != alone(device, sampling=SamplingParams(temperature=1.0, seed=3))


def test_the_cloud_sees_the_public_context_and_the_chosen_answer_alone(device, cloud):
    text, run = answer(device, cloud, config={"chunk_tokens": 4})
    assert run.requests == len(cloud.seen) > 2
    for seen in cloud.seen:
        assert SECRET not in seen
        public, _, begun = seen.rpartition("<|im_start|>assistant\n")
        assert public.endswith("hello there<|im_end|>\n")
        assert text.startswith(begun)


def test_a_cloud_that_steers_the_device_to_its_secret_gets_none_of_it_back(device):
    """The device would write the secret where the cloud leads it; `publish` sees that first."""

    class Steering(ScriptedCloud):
        def stream(self, request, *, deadline_s=None):
            script = [position((bytes([byte]), 0.999)) for byte in SECRET.encode()]
            self.scripts = [[Step(0.0, script, "length")]]
            return super().stream(request, deadline_s=deadline_s)

    cloud = Steering([[]])
    view = PublicView(lambda text: None if SECRET in text else text, messages=(ASKED,))
    text, run = answer(
        device, cloud, view=view, config={"weight": FixedWeight(0.0), "chunk_tokens": 6}
    )
    assert text.startswith(SECRET)
    assert run.failures == {"withheld": 1}
    assert len(cloud.requests) == 1
    assert SECRET not in str(cloud.requests)


def test_where_nothing_of_the_answer_may_be_published_the_cloud_is_asked_once(device, cloud):
    _, run = answer(device, cloud, view=PublicView(never, messages=(ASKED,)))
    assert run.requests == 1
    assert run.failures == {"withheld": 1}
    assert len(cloud.seen) == 1
    assert cloud.seen[0].endswith("<|im_start|>assistant\n")


def test_requests_run_in_the_context_of_the_caller(device):
    """Egress looks for a clearance there; without it, it lets nothing out."""
    clearance = contextvars.ContextVar("clearance", default="none")
    found = []

    class Looking(DeadCloud):
        def stream(self, request, *, deadline_s=None):
            found.append((clearance.get(), threading.current_thread() is threading.main_thread()))
            raise CloudError("the provider is gone")

    token = clearance.set("cleared")
    answer(device, Looking(), tokens=2)
    clearance.reset(token)
    assert set(found) == {("cleared", False)}


def test_a_token_of_an_answer_may_be_a_part_of_a_character(device):
    """The cloud writes e-acute in two tokens; a request never ends between them."""
    halves = [position((b"\xc3", 0.9999)), position((b"\xa9", 0.9999))]
    cloud = ScriptedCloud([[Step(0.0, halves[:1], "length")], [Step(0.0, halves, "length")]])
    text, _ = answer(device, cloud, tokens=2, config={"weight": FixedWeight(0.0)})
    assert text == "\u00e9"
    # The second request stands before the character, and its path runs through the first half.
    assert len(cloud.requests) == 2
    assert not cloud.requests[1].continue_final


def test_stop_strings_end_a_fused_answer(device, cloud, cloud_engine):
    whole = alone(cloud_engine, prompt=(ASKED,))
    stop = whole[4:6]
    text, run = answer(device, cloud, config={"weight": FixedWeight(0.0)}, stop=[stop])
    assert text == whole[: whole.index(stop)]
    assert run.finish_reason == "stop"


def test_the_session_of_an_answer_is_closed_also_where_the_reader_leaves(device, cloud):
    decoder = FusedDecoder(device, cloud, FusionConfig(**ALWAYS))
    pieces = decoder.generate([ASKED], VIEW, 24)
    next(pieces)
    opened = device.sessions._sessions[-1]
    assert not opened.closed
    pieces.close()
    assert opened.closed
    assert decoder.last_run is not None
    assert decoder.last_run.finish_reason is None


def test_an_answer_that_nobody_reads_opens_no_session_and_asks_nobody(device, cloud):
    before = list(device.sessions._sessions)
    FusedDecoder(device, cloud, FusionConfig(**ALWAYS)).generate([ASKED], VIEW, 24)
    assert device.sessions._sessions == before
    assert cloud.seen == []


def test_bad_arguments_are_refused_before_the_first_piece(device, cloud):
    decoder = FusedDecoder(device, cloud)
    with pytest.raises(InputError, match="max_tokens=0"):
        decoder.generate([ASKED], VIEW, 0)
    with pytest.raises(InputError, match="nobody"):
        decoder.generate([ASKED], VIEW, 4, adapters=["nobody"])


def test_the_conversation_of_the_engine_is_not_touched(device, cloud):
    alone(device)
    before = list(device.session.tokens)
    answer(device, cloud, tokens=4)
    assert device.session.tokens == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "sum"}, "unknown rule 'sum'"),
        ({"chunk_tokens": 0}, "chunk_tokens=0"),
        ({"chunk_tokens": True}, "chunk_tokens=True"),
        ({"top_logprobs": 21}, r"top_logprobs=21 is not a whole number in 1\.\.20"),
        ({"ask_margin": -1.0}, "ask_margin"),
        ({"ask_margin": math.nan}, "ask_margin"),
        ({"deadline_s": 2.0, "timeout_s": 1.0}, "the deadline the shorter"),
        ({"timeout_s": math.inf}, "the deadline the shorter"),
        ({"end_probability": 1.0}, "end_probability"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        FusionConfig(**changes)


def test_fusing_never_changes_the_logits_it_was_given(device, cloud):
    logits = np.linspace(-1, 1, VOCAB_SIZE, dtype=np.float32)
    fuser = Fuser(TokenMap(device.tokenizer), cloud, VIEW, FusionConfig(**ALWAYS))
    kept = logits.copy()
    fused = fuser.next(logits, b"")
    fuser.close()
    assert fused is not logits
    assert np.array_equal(logits, kept)


def test_the_example_of_the_page_runs_as_printed(device, cloud, egress, vault):
    (example,) = examples("docs/fusion.md")
    given = {"publish": as_it_is, "masked": (ASKED,), "messages": [KNOWN, ASKED]}
    around = {"engine": device, "cloud": cloud, "egress": egress, "vault": vault, **given}
    exec(compile(example, "docs/fusion.md", "exec"), around)
    assert around["decoder"].last_run.tokens > 0
