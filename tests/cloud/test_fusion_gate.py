"""Weights: fixed, by entropy, and learned on the device."""

import io
import math

import numpy as np
import pytest

from ptmo_secure.cloud.fusion.gate import (
    MAX_PARAMETERS,
    EntropyWeight,
    FixedWeight,
    LearnedWeight,
    features,
    load_gate,
)
from ptmo_secure.cloud.fusion.mix import RULES, CloudTop, DeviceView, fuse, join
from ptmo_secure.cloud.fusion.training import _loss_and_slope, _Table, example, losses, train_gate
from ptmo_secure.errors import InputError
from tests.cloud.fusion_doubles import logits_of

VOCAB = 24


def atoms_of(device, cloud, listed=4):
    best = np.argsort(-np.array(cloud), kind="stable")[:listed]
    top = np.log(np.array(cloud)[best])
    return join(DeviceView.of(logits_of(device)), CloudTop(best, top, float(top[-1])))


def world(count, seed):
    """Positions at which the surer of both models is the one to believe, and the true tokens."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        truth = int(draw.integers(VOCAB))
        good = np.full(VOCAB, 0.2 / (VOCAB - 1))
        good[truth] = 0.8
        flat = draw.dirichlet(np.full(VOCAB, 3.0))
        device, cloud = (good, flat) if draw.random() < 0.5 else (flat, good)
        made.append((atoms_of(device, cloud), truth))
    return made


def mean_loss(positions, weight, rule):
    return float(np.mean([-fuse(a, weight.share(a), rule)[y] for a, y in positions]))


def test_features_by_hand():
    device, cloud = [0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125]
    found = features(atoms_of(device, cloud, listed=4))
    entropy = 1.75 * math.log(2)
    assert found == pytest.approx([entropy, 0.5, entropy, 0.5, 0.75])


def test_a_fixed_weight_is_fixed_and_in_range():
    assert FixedWeight(0.25).share(atoms_of([0.5, 0.5], [0.5, 0.5], 1)) == 0.25
    with pytest.raises(InputError, match=r"not in 0\.\.1"):
        FixedWeight(1.5)


def test_by_entropy_the_surer_model_counts_for_more():
    sure, unsure = [0.97, 0.01, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]
    assert EntropyWeight().share(atoms_of(sure, unsure)) > 0.8
    assert EntropyWeight().share(atoms_of(unsure, sure)) < 0.2
    assert EntropyWeight().share(atoms_of(unsure, unsure)) == pytest.approx(0.5)


def test_by_entropy_two_certain_models_count_alike():
    atoms = atoms_of([1.0, 0.0], [1.0, 1e-300], listed=1)
    assert EntropyWeight().share(atoms) == pytest.approx(0.5, abs=0.5)
    assert 0.0 <= EntropyWeight().share(atoms) <= 1.0


@pytest.mark.parametrize("rule", RULES)
def test_the_slope_equals_the_difference_quotient(rule):
    examples = [example(atoms, y) for atoms, y in world(40, seed=1)]
    table = _Table.of(examples)
    w = np.random.default_rng(2).uniform(0.1, 0.9, len(examples))
    step = 1e-6
    higher = _loss_and_slope(table, w + step, rule)[0]
    lower = _loss_and_slope(table, w - step, rule)[0]
    slope = _loss_and_slope(table, w, rule)[1]
    assert np.allclose(slope, (higher - lower) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_training_losses_are_those_of_fused_decoding_up_to_the_tails_own_shape(rule):
    positions = world(40, seed=3)
    w = np.random.default_rng(4).uniform(0.0, 1.0, len(positions))
    found = losses([example(a, y) for a, y in positions], w, rule)
    for (atoms, y), share, loss in zip(positions, w, found, strict=True):
        within = 0.0 if y in atoms.ids else atoms.log_vocabulary[y] - atoms.log_device[-1]
        assert -fuse(atoms, float(share), rule)[y] == pytest.approx(loss - within)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hidden", [0, 8])
def test_a_trained_gate_beats_every_constant_on_text_it_has_not_seen(rule, hidden):
    seen, unseen = world(300, seed=5), world(300, seed=6)
    gate = train_gate([example(a, y) for a, y in seen], rule=rule, hidden=hidden, seed=7)
    best = min(mean_loss(unseen, FixedWeight(w), rule) for w in np.linspace(0, 1, 21))
    assert mean_loss(unseen, gate, rule) < 0.75 * best
    assert gate.parameters <= MAX_PARAMETERS


def test_training_is_repeated_by_its_seed():
    examples = [example(a, y) for a, y in world(60, seed=8)]
    one, same, other = (train_gate(examples, steps=20, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.hidden[0], same.hidden[0])
    assert not np.array_equal(one.hidden[0], other.hidden[0])


def test_a_saved_gate_gives_the_same_shares(tmp_path):
    positions = world(60, seed=9)
    gate = train_gate([example(a, y) for a, y in positions], steps=30)
    gate.save(tmp_path / "gate.npz")
    loaded = load_gate(tmp_path / "gate.npz")
    assert [loaded.share(a) for a, _ in positions] == [gate.share(a) for a, _ in positions]
    assert loaded.parameters == gate.parameters == 8 * 5 + 8 + 8 + 5 + 1 + 5 + 5


def test_a_gate_above_a_thousand_parameters_is_refused():
    n, h = 5, 200
    with pytest.raises(InputError, match="more than 1000"):
        LearnedWeight(
            np.zeros(n), np.ones(n), (np.zeros((h, n)), np.zeros(h)), np.zeros(h), np.zeros(n), 0.0
        )


@pytest.mark.parametrize("damage", ["missing", "text", "pickle", "shapes", "nan", "large"])
def test_a_file_that_is_no_gate_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "gate.npz"
    gate = train_gate([example(a, y) for a, y in world(20, seed=1)], steps=1, hidden=2)
    arrays = gate.arrays()
    if damage == "text":
        path.write_text("no gate")
    elif damage == "pickle":
        packed = io.BytesIO()
        np.savez(packed, **(arrays | {"shift": np.array([object()], dtype=object)}))
        path.write_bytes(packed.getvalue())
    elif damage == "shapes":
        np.savez(path, **(arrays | {"direct": np.zeros(9)}))
    elif damage == "nan":
        np.savez(path, **(arrays | {"bias": np.array([math.nan])}))
    elif damage == "large":
        path.write_bytes(bytes(70_000))
    with pytest.raises(InputError) as caught:
        load_gate(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden": 65}, "out of range"),
        ({"steps": 0}, "out of range"),
        ({"learning_rate": math.nan}, "out of range"),
        ({"decay": -1.0}, "out of range"),
    ],
)
def test_bad_settings_of_training_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        train_gate([example(a, y) for a, y in world(20, seed=1)], **changes)


def test_too_little_text_trains_no_gate():
    with pytest.raises(InputError, match="3 positions are too few"):
        train_gate([example(a, y) for a, y in world(3, seed=1)])
