"""The deadline: a token never waits longer for a cloud, whatever that does. Time is virtual."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.asking import MAX_IN_FLIGHT
from ptmo_secure.cloud.fusion.config import FusionConfig
from ptmo_secure.cloud.fusion.fuser import Fuser
from ptmo_secure.cloud.fusion.view import PublicView, as_it_is, never
from ptmo_secure.cloud.fusion.workers import LEAST_MARGIN_S, RealClock
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import CloudError, EgressRefusedError, InputError
from tests.cloud.fusion_doubles import ScriptedCloud, Step, VirtualTime, position
from tests.tiny_models import VOCAB_SIZE, tokenizer_metadata

TOKENIZER = Tokenizer(tokenizer_metadata())
TOKENS = TokenMap(TOKENIZER)
VIEW = PublicView(as_it_is, prompt="Once")
WORD = b"abcdefghijklmnopqrstuvwxyz"
DELAY = st.one_of(st.floats(0.0, 0.5), st.just(math.inf))
FAIL = CloudError("the provider failed")


def logits_for(data):
    """The device's logits, unsure, a little for the token of these bytes."""
    logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
    logits[TOKENS.token_id(data)] = 0.1
    return logits


def letters(text):
    return [position((bytes([letter]), 0.9)) for letter in text]


def fuser(cloud, time, view=VIEW, **settings):
    cloud.sleep = time.sleep
    config = FusionConfig(**{"ask_margin": math.inf, **settings})
    return Fuser(TOKENS, cloud, view, config, clock=time, spawn=time.spawn)


def decode(fusing, time, tokens, compute_s=0.0):
    """Decode greedily where the device alone would write "zzz...". Returns text and waits."""
    answer, waits, untouched = bytearray(), [], []
    fusing.begin()
    for _ in range(tokens):
        logits = logits_for(b"z")
        start = time.now()
        fused = fusing.next(logits, answer)
        waits.append(time.now() - start)
        untouched.append(fused is logits)
        answer += TOKENIZER.token_bytes(int(fused.argmax()))
        time.advance(compute_s)
    fusing.close()
    return bytes(answer), waits, untouched


@st.composite
def scripts(draw):
    """A stream of letters in chunks that delay, stall for ever, fail, end or stop half-way."""
    steps, text = [], draw(st.sampled_from([WORD, b"zzzzzzzzzz", b"zzaazz"]))
    for letter in letters(text):
        steps.append(Step(draw(DELAY), [letter]))
    end = draw(st.sampled_from(["length", "stop", "error", "half-closed"]))
    if end == "error":
        steps.append(Step(draw(DELAY), error=FAIL))
    elif end != "half-closed":
        steps.append(Step(draw(DELAY), finish=end))
    return steps[draw(st.integers(0, len(steps) - 1)) :] if draw(st.booleans()) else steps


@settings(max_examples=120, deadline=None)
@given(
    st.lists(scripts(), min_size=1, max_size=4),
    st.floats(0.0, 0.3),
    st.floats(0.0, 0.1),
    st.booleans(),
)
def test_no_token_ever_waits_longer_than_its_deadline(plans, deadline_s, compute_s, streaming):
    time = VirtualTime()
    cloud = ScriptedCloud(plans)
    fusing = fuser(cloud, time, deadline_s=deadline_s, streaming=streaming)
    _, waits, untouched = decode(fusing, time, 24, compute_s)
    assert len(waits) == 24
    assert max(waits) <= deadline_s + 1e-9
    assert fusing.stats.longest_wait_s <= deadline_s + 1e-9
    alone = sum(fusing.stats.alone.values())
    assert fusing.stats.fused + alone == fusing.stats.tokens == 24
    assert alone == sum(untouched)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                [Step(error=FAIL)],
                [Step(math.inf)],
                [Step(0.05, error=FAIL)],
                [Step(finish="length")],
                [Step(0.3, letters(b"abc"), "length")],
                [Step(0.0, [position((b"a", 0.9), (b"b", 0.9))])],
                [],
            ]
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_a_cloud_that_gives_nothing_in_time_changes_no_token(plans, streaming):
    """Late by 300 ms where the deadline is 100, at a device that has moved on by then."""
    time = VirtualTime()
    fusing = fuser(ScriptedCloud(plans), time, deadline_s=0.1, streaming=streaming)
    answer, _, untouched = decode(fusing, time, 40, compute_s=0.02)
    assert answer == b"z" * 40
    assert all(untouched)


def test_a_stalled_cloud_costs_one_deadline_and_not_one_a_token():
    time = VirtualTime()
    fusing = fuser(ScriptedCloud([[Step(math.inf)]]), time, deadline_s=0.1)
    _, waits, _ = decode(fusing, time, 50, compute_s=0.02)
    assert sum(waits) == pytest.approx(0.1)
    assert fusing.stats.alone == {"late": 50}
    assert fusing.stats.requests == 1


@pytest.mark.parametrize(("margin_s", "waited_s"), [(0.0, 0.1), (0.03, 0.07), (5.0, 0.05)])
def test_waits_end_early_by_the_clocks_margin_but_have_half_of_the_time(margin_s, waited_s):
    time = VirtualTime(margin_s)
    fusing = fuser(ScriptedCloud([[Step(math.inf)]]), time, deadline_s=0.1)
    _, waits, _ = decode(fusing, time, 3)
    assert max(waits) == pytest.approx(waited_s)


def test_the_real_clocks_margin_follows_the_worst_lateness_seen_lately():
    clock, late_s = RealClock(), 0.04

    class Late(threading.Condition):
        def wait(self, timeout=None):
            end = time.monotonic() + timeout + late_s
            while time.monotonic() < end:
                pass
            return False

    changed = Late()
    assert clock.margin_s == LEAST_MARGIN_S
    clock.wait(changed, 0.001)
    worst = clock.margin_s
    assert worst >= 1.25 * late_s
    late_s = 0.0
    for _ in range(3):
        clock.wait(changed, 0.001)
    assert clock.margin_s == pytest.approx(worst * 0.98**3)


def test_a_cloud_that_always_fails_is_asked_ever_more_rarely():
    time = VirtualTime()
    fusing = fuser(ScriptedCloud([[Step(error=FAIL)]]), time)
    decode(fusing, time, 200)
    # Before the first token; then 1, 2, 4, 8, 16, 32, 64 and 64 tokens pass in between.
    assert fusing.stats.requests == 9
    assert fusing.stats.failures == {"failed": 9}
    assert fusing.stats.alone == {"unavailable": 200}


def test_a_cloud_in_time_is_followed_and_asked_again_at_the_end_of_its_path():
    time = VirtualTime()
    cloud = ScriptedCloud(
        [
            [Step(0.09, letters(b"abcd")), Step(0.0, finish="length")],
            [Step(0.0, letters(b"efgh")), Step(0.0, finish="length")],
        ]
    )
    fusing = fuser(cloud, time, deadline_s=0.1, chunk_tokens=4)
    answer, waits, _ = decode(fusing, time, 8)
    assert answer == b"abcdefgh"
    assert [request.prompt for request in cloud.requests] == ["Once", "Onceabcd"]
    assert {request.max_tokens for request in cloud.requests} == {4}
    assert {request.top_logprobs for request in cloud.requests} == {20}
    assert fusing.stats.requests_per_token == 0.25
    assert waits[0] == pytest.approx(0.09)


def test_a_late_path_is_used_again_once_it_has_caught_up_with_the_answer():
    time = VirtualTime()
    cloud = ScriptedCloud([[Step(0.24, letters(b"zzz")), Step(0.0, letters(b"zzabc"), "length")]])
    fusing = fuser(cloud, time, deadline_s=0.1)
    answer, _, untouched = decode(fusing, time, 8, compute_s=0.05)
    # Some 0.1 s waited, then 0.05 s a token: the path is there behind the third.
    assert untouched == [True, True, True, False, False, False, False, False]
    assert answer == b"zzzzzabc"
    assert fusing.stats.requests == 1


def test_a_path_that_the_answer_leaves_is_given_up_and_its_stream_closed():
    time = VirtualTime()
    cloud = ScriptedCloud(
        [
            [Step(0.0, [position((b"a", 0.02), (b"b", 0.01))]), *[Step(0.01, letters(b"c"))] * 50],
            [Step(0.0, letters(b"xyz"), "length")],
        ]
    )
    fusing = fuser(cloud, time, deadline_s=0.1)
    # Sure of z: 0.02 for a, as the cloud has it, does not move the device here.
    answer = bytearray()
    sure = np.zeros(VOCAB_SIZE, dtype=np.float32)
    sure[TOKENS.token_id(b"z")] = 20.0
    fusing.begin()
    answer += TOKENIZER.token_bytes(int(fusing.next(sure, answer).argmax()))
    assert answer == b"z"
    fused = fusing.next(logits_for(b"z"), answer)
    assert TOKENIZER.token_bytes(int(fused.argmax())) == b"x"
    time.advance(1.0)
    assert cloud.closed == 2  # the first one at its next chunk
    assert len(cloud.requests) == 2
    fusing.close()


def test_no_more_requests_than_allowed_are_under_way_at_once():
    time = VirtualTime()
    stuck = [Step(0.0, [position((b"a", 0.5), (b"z", 0.4))]), Step(math.inf)]
    cloud = ScriptedCloud([stuck])
    fusing = fuser(cloud, time, deadline_s=0.01)
    answer = bytearray()
    for _ in range(30):  # the device's choice, always off the path
        fusing.next(logits_for(b"z"), answer)
        answer += b"z"
    assert len(cloud.requests) == MAX_IN_FLIGHT
    fusing.close()


def test_a_sure_device_does_not_ask():
    time = VirtualTime()
    cloud = ScriptedCloud([[Step(0.0, letters(WORD), "length")]])
    fusing = fuser(cloud, time, ask_margin=0.5, ask_at_start=False)
    for margin, asked in ((0.6, 0), (0.4, 1)):
        logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
        logits[7] = margin
        fusing.next(logits, b"")
        assert len(cloud.requests) == asked
    assert fusing.stats.alone == {"sure": 1}
    fusing.close()


def test_a_draft_at_hand_is_used_also_where_the_device_is_sure():
    time = VirtualTime()
    fusing = fuser(ScriptedCloud([[Step(0.0, letters(b"abc"), "length")]]), time, ask_margin=0.5)
    fusing.begin()
    logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
    logits[TOKENS.token_id(b"z")] = 3.0
    assert fusing.next(logits, b"") is not logits
    fusing.close()


@pytest.mark.parametrize(
    ("script", "view", "code", "sent"),
    [
        ([Step(error=EgressRefusedError("a private span"))], VIEW, "refused", 1),
        ([Step(error=InputError("provider x has no feature 'continue'"))], VIEW, "unsupported", 1),
        ([Step(0.0, (), "length")], VIEW, "no_logprobs", 1),
        ([Step(0.0, letters(b"ab"), "length")], PublicView(never, prompt="Once"), "withheld", 1),
    ],
)
def test_what_would_end_the_same_way_again_is_not_asked_again(script, view, code, sent):
    time = VirtualTime()
    cloud = ScriptedCloud([script])
    fusing = fuser(cloud, time, view)
    answer, _, _ = decode(fusing, time, 60)
    assert len(cloud.requests) == sent == fusing.stats.requests
    assert fusing.stats.failures == {code: 1}
    assert answer.endswith(b"z" * 50)


def test_where_the_cloud_ends_its_answer_the_device_is_told_so():
    time = VirtualTime()
    fusing = fuser(ScriptedCloud([[Step(0.0, letters(b"ab"), "stop")]]), time)
    fusing.begin()
    fused = fusing.next(logits_for(b"z"), b"ab")
    assert int(fused.argmax()) in TOKENIZER.stop_ids
    assert np.exp(fused).sum() == pytest.approx(1.0)
    fusing.close()


def test_inside_a_token_of_the_clouds_the_device_is_alone_and_the_path_is_kept():
    time = VirtualTime()
    path = [position((b"theory", 0.9)), position((b"x", 0.9))]
    cloud = ScriptedCloud([[Step(0.0, path, "length")]])
    fusing = fuser(cloud, time)
    fusing.begin()
    answer = bytearray(b"the")
    for letter in b"ory":
        logits = logits_for(bytes([letter]))
        assert fusing.next(logits, answer) is logits
        answer.append(letter)
    assert TOKENIZER.token_bytes(int(fusing.next(logits_for(b"z"), answer).argmax())) == b"x"
    assert fusing.stats.alone == {"inside": 3}
    assert len(cloud.requests) == 1
    fusing.close()
