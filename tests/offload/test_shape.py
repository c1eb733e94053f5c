"""The shape of a question, and the router that goes by it."""

import numpy as np
import pytest

from ptmo_secure.offload.boosted import BoostedTrees
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.policies.shaped import ShapedModel
from ptmo_secure.offload.shape import shape

QUESTION = """Which of the following is NOT prime, said Ann?
A. 12
B. All of the above
C. no prime, or 3
D. true
Answer:"""


def test_lengths_flags_and_options_are_counted():
    found = shape(QUESTION)
    assert len(found) == 44 and np.isfinite(found).all()
    lengths, flags, signs, options = np.split(found, [12, 26, 28])
    assert lengths[:2] == pytest.approx([np.log(1 + 46), np.log(1 + 9)])
    assert lengths[3:9].tolist() == [0, 0, 0, 1, 0, 0]
    assert lengths[9:] == pytest.approx([5 / 47, 3 / 10, 9 / 10])  # W, N, O, T, A; 3 capitalised
    assert np.flatnonzero(flags).tolist() == [0, 1, 4, 6] and signs.tolist() == [0, 0]
    sizes = [2, 16, 14, 4]
    assert options[:4] == pytest.approx([4, np.log1p(sum(sizes)), np.log(17), np.log(3)])
    assert options[5:14].tolist() == [1, 2.5, 2, 1, 1, 2, 1, 4, 4]
    assert options[14] == pytest.approx(np.log(2))  # "prime" comes again once


def test_a_text_without_options_has_a_shape_as_well():
    assert (shape("Say 7.")[-16:] == 0).all() and shape("Say 7.")[3] == 1
    assert len(shape("")) == len(shape(QUESTION)) and np.isfinite(shape("")).all()
    assert np.isfinite(shape("A. \nB. \n\x00" + "x" * 10_000)).all()


def test_the_tables_say_what_scikit_learns_trees_say():
    from sklearn.ensemble import GradientBoostingRegressor

    rng = np.random.default_rng(3)
    seen, asked = rng.standard_normal((900, 5)), rng.standard_normal((300, 5))
    targets = np.sin(2 * seen[:, 0]) + (seen[:, 1] > 0) + 0.1 * rng.standard_normal(900)
    trees = BoostedTrees(seen, targets)
    sizes = {"max_depth": None, "max_leaf_nodes": 8, "min_samples_leaf": 60, "random_state": 0}
    theirs = GradientBoostingRegressor(n_estimators=150, learning_rate=0.03, init="zero", **sizes)
    expected = theirs.fit(seen, targets - targets.mean()).predict(asked) + targets.mean()
    assert trees.predict(asked) == pytest.approx(expected, abs=1e-12)
    assert np.ptp(expected) > 1  # not one leaf for all
    assert BoostedTrees(seen[:3], targets[:3]).predict(asked) == pytest.approx(targets[:3].mean())


def rows(count, rng):
    """Questions of drawn words; the cloud's model gains on those with a number, and on no word."""
    made = []
    for _ in range(count):
        words = " ".join(f"w{number}" for number in rng.integers(200, size=8))
        words = words.replace("w", rng.choice(["", "w"])) if rng.random() < 0.5 else words
        numeric = float(any(word.isdigit() for word in words.split()))
        made += [TrainingRow(words, 0, 0.2, "all"), TrainingRow(words, 1, 0.2 + numeric / 2, "all")]
    return made


def test_what_no_word_says_is_learnt_from_the_shape():
    rng = np.random.default_rng(0)
    seen, unseen = rows(600, rng), rows(200, rng)[::2]
    model = ShapedModel()
    model.fit(seen, 2, rng)
    found = model.predict([row.text for row in unseen])
    assert found.shape == (200, 2)
    numeric = np.array([row.text[0].isdigit() for row in unseen])
    gain = found[:, 1] - found[:, 0]
    assert 0 < numeric.sum() < 200 and gain[numeric].min() > gain[~numeric].max() + 0.2


def test_a_model_that_never_answered_scores_0_and_no_text_no_row():
    rng = np.random.default_rng(0)
    seen = [row for row in rows(50, rng) if row.arm == 1]
    model, words = ShapedModel(), GroupModel()
    model.fit(seen, 2, rng)
    words.fit(seen, 2, rng)
    texts = [row.text for row in seen[:5]]
    assert (model.predict(texts)[:, 0] == 0).all() and (words.predict(texts)[:, 0] == 0).all()
    assert model.predict([]).shape == (0, 2)
