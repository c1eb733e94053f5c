"""Mixing two distributions of which one is known by its top alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.cloud.fusion.mix import (
    MIN_REST,
    RULES,
    CloudTop,
    DeviceView,
    complete,
    fuse,
    join,
    mix,
)
from ptmo_secure.errors import InputError
from tests.cloud.fusion_doubles import logits_of

RULE = st.sampled_from(RULES)
WEIGHT = st.floats(0.0, 1.0)
PROPER = settings(max_examples=150, deadline=None)


@st.composite
def distributions(draw, size=None):
    """Log-probabilities [n] of n tokens, over hundreds of nats."""
    n = size or draw(st.integers(2, 40))
    scores = np.array(draw(st.lists(st.floats(-300.0, 30.0), min_size=n, max_size=n)))
    return scores - (scores.max() + np.log(np.exp(scores - scores.max()).sum()))


@st.composite
def pairs(draw):
    """A device's view, a cloud's whole distribution, and how many of its tokens are listed."""
    device = draw(distributions())
    cloud = draw(distributions(len(device)))
    return DeviceView.of(device), cloud, draw(st.integers(1, len(device)))


def top_of(log_cloud, count):
    best = np.argsort(-log_cloud, kind="stable")[:count]
    return CloudTop(best, log_cloud[best], float(log_cloud[best[-1]]))


@PROPER
@given(pairs(), WEIGHT, RULE)
def test_fused_probabilities_sum_to_one(pair, weight, rule):
    device, cloud, count = pair
    atoms = join(device, top_of(cloud, count))
    assert np.exp(complete(atoms)).sum() == pytest.approx(1.0, abs=1e-9)
    assert np.exp(fuse(atoms, weight, rule)).sum() == pytest.approx(1.0, abs=1e-9)


@PROPER
@given(pairs())
def test_the_completion_is_the_clouds_own_where_it_lists_every_token(pair):
    device, cloud, _ = pair
    completed = complete(join(device, top_of(cloud, len(cloud))))
    assert np.allclose(completed, cloud, rtol=0, atol=1e-9)


@PROPER
@given(pairs())
def test_the_completion_keeps_what_is_listed_and_exceeds_nowhere_else_what_is_listed_last(pair):
    device, cloud, count = pair
    top = top_of(cloud, count)
    listed = np.exp(top.logprobs)
    completed = np.exp(complete(join(device, top)))
    if 1.0 - listed.sum() >= MIN_REST or count == len(cloud):
        assert np.allclose(completed[top.ids], listed, rtol=1e-9, atol=1e-12)
        others = np.delete(completed, top.ids)
        # With room for it all: no more than 256 tokens have to come down to the ceiling here.
        room = (np.delete(device.log_p, top.ids) > -700).sum() * listed[-1]
        if len(others) and room > (1.0 - listed.sum()) * (1 + 1e-9):
            assert others.max() <= listed[-1] * (1 + 1e-6)


@pytest.mark.parametrize("smaller", [21.0, 30.0, 200.0])
def test_a_ceiling_holds_where_the_devices_probabilities_are_of_very_different_size(smaller):
    scores = np.array([0.0, *[-11.0] * 23, -11.0 - smaller, -13.0 - smaller])
    device = scores - np.log(np.exp(scores).sum())
    cloud = np.array([0.0] * 25 + [-1.0])
    cloud -= np.log(np.exp(cloud).sum())
    top = CloudTop(np.array([1]), cloud[[1]], float(cloud[1]))
    completed = complete(join(DeviceView.of(device), top))
    assert np.delete(completed, 1).max() <= cloud[1] + 1e-9


@PROPER
@given(pairs())
def test_the_tail_has_the_devices_shape_below_the_ceiling(pair):
    device, cloud, count = pair
    top = top_of(cloud, count)
    atoms = join(device, top)
    completed = complete(atoms)
    tail = np.setdiff1d(np.arange(len(cloud)), atoms.ids)
    if atoms.has_tail:
        assert np.ptp((completed - device.log_p)[tail]) < 1e-9


@PROPER
@given(pairs(), WEIGHT, RULE)
def test_mixing_atoms_equals_mixing_the_completed_distributions(pair, weight, rule):
    device, cloud, count = pair
    atoms = join(device, top_of(cloud, count))
    expected = mix(complete(atoms), device.log_p, weight, rule)
    assert np.allclose(np.exp(fuse(atoms, weight, rule)), np.exp(expected), rtol=0, atol=1e-9)


@PROPER
@given(distributions(12), distributions(12), WEIGHT, RULE)
def test_both_rules_are_symmetric_in_the_two_models(left, right, weight, rule):
    one = mix(left, right, weight, rule)
    other = mix(right, left, 1.0 - weight, rule)
    assert np.allclose(np.exp(one), np.exp(other), rtol=0, atol=1e-9)


@PROPER
@given(pairs(), RULE)
def test_the_whole_share_is_the_device_and_no_share_is_the_completed_cloud(pair, rule):
    device, cloud, count = pair
    atoms = join(device, top_of(cloud, count))
    assert np.allclose(np.exp(fuse(atoms, 1.0, rule)), np.exp(device.log_p), rtol=0, atol=1e-9)
    assert np.allclose(fuse(atoms, 0.0, rule), complete(atoms), rtol=0, atol=1e-9)


def test_the_formulas_by_hand():
    device = DeviceView.of(np.log([0.5, 0.3, 0.1, 0.1]))
    # Listed: token 0 with 0.4. Left: 0.6, of which no token may have more than 0.4; the device's
    # shape 0.3 : 0.1 : 0.1 would give 0.36, 0.12, 0.12, which is below it.
    atoms = join(device, CloudTop(np.array([0]), np.log([0.4]), math.log(0.4)))
    assert np.exp(complete(atoms)) == pytest.approx([0.4, 0.36, 0.12, 0.12])
    linear = np.exp(fuse(atoms, 0.25, "linear"))
    assert linear == pytest.approx([0.425, 0.345, 0.115, 0.115])
    roots = np.sqrt([0.4 * 0.5, 0.36 * 0.3, 0.12 * 0.1, 0.12 * 0.1])
    assert np.exp(fuse(atoms, 0.5, "product")) == pytest.approx(roots / roots.sum())


def test_a_token_that_the_device_believes_in_gets_no_more_than_the_last_one_listed():
    device = DeviceView.of(np.log([0.01, 0.01, 0.88, 0.05, 0.05]))
    top = CloudTop(np.array([0, 1]), np.log([0.5, 0.2]), math.log(0.2))
    assert np.exp(complete(join(device, top))) == pytest.approx([0.5, 0.2, 0.2, 0.05, 0.05])


def test_a_ceiling_that_leaves_no_room_is_not_kept():
    device = DeviceView.of(np.log([0.25, 0.25, 0.25, 0.25]))
    top = CloudTop(np.array([0, 1]), np.log([0.1, 0.1]), math.log(0.1))  # 0.8 for two tokens
    assert np.exp(complete(join(device, top))) == pytest.approx([0.1, 0.1, 0.4, 0.4])


def test_masses_that_sum_to_more_than_one_are_scaled_down_and_forbid_no_token():
    device = DeviceView.of(np.zeros(5))
    atoms = join(device, CloudTop(np.array([0, 1]), np.log([0.8, 0.21])))
    completed = np.exp(complete(atoms))
    assert completed[2:].sum() == pytest.approx(MIN_REST)
    assert completed[0] / completed[1] == pytest.approx(0.8 / 0.21)


def test_a_tail_that_the_device_holds_for_all_but_impossible_keeps_its_shape():
    device = DeviceView.of(np.array([0.0, -800.0, -801.0]))  # below what a double can hold
    completed = complete(join(device, CloudTop(np.array([0]), np.log([0.5]))))
    assert np.exp(completed) == pytest.approx([0.5, 0.5 / (1 + np.exp(-1)), 0.5 / (1 + np.exp(1))])


def test_a_device_that_forbids_the_tail_leaves_the_listed_tokens_all_the_mass():
    device = DeviceView.of(np.array([0.0, 0.0, -np.inf]))
    completed = complete(join(device, CloudTop(np.array([0, 1]), np.log([0.3, 0.3]))))
    assert np.exp(completed) == pytest.approx([0.5, 0.5, 0.0])


def test_entropy_largest_probability_and_margin_of_the_device():
    view = DeviceView.of(logits_of([0.5, 0.25, 0.25, 0.0]))
    assert view.entropy == pytest.approx(1.5 * math.log(2))
    assert view.max_p == pytest.approx(0.5)
    assert view.margin == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("ids", "logprobs", "said"),
    [
        ([], [], "do not fit"),
        ([0], [-1.0, -2.0], "do not fit"),
        ([0, 0], [-1.0, -1.0], "not distinct"),
        ([7], [-1.0], "not distinct ids in 0..4"),
        ([-1], [-1.0], "not distinct"),
        ([1], [math.nan], "no finite number"),
    ],
)
def test_a_list_that_cannot_be_is_refused(ids, logprobs, said):
    top = CloudTop(np.array(ids, dtype=np.int64), np.array(logprobs))
    with pytest.raises(InputError, match=said):
        join(DeviceView.of(np.zeros(5)), top)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_a_share_out_of_range_is_refused(weight):
    with pytest.raises(InputError, match=r"not in 0\.\.1"):
        mix(np.log([0.5, 0.5]), np.log([0.5, 0.5]), weight, "product")
