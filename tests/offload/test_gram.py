"""Ridge regression by inner products gives the slopes of ridge regression."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.gram import Gram
from ptmo_secure.offload.policies.groups import GroupModel


def test_slopes_and_levels_are_those_of_ridge_regression():
    rng = np.random.default_rng(1)
    dense = rng.random((60, 200)) * (rng.random((60, 200)) < 0.03)
    dense[:, :10] = rng.random((60, 10))  # slots that every text has: the dense part
    targets = rng.standard_normal((60, 4)) + 3
    slopes, levels = Gram(csr_matrix(dense)).ridge(targets, 2.0)
    expected = Ridge(alpha=2.0).fit(dense, targets)
    assert slopes == pytest.approx(expected.coef_.T, abs=1e-4)
    assert levels == pytest.approx(expected.intercept_, abs=1e-4)


def test_several_penalties_come_from_one_matrix():
    vectors = csr_matrix(np.random.default_rng(2).random((30, 12)))
    target = np.arange(30.0)[:, None]
    gram = Gram(vectors)
    soft, hard = (np.abs(gram.ridge(target, penalty)[0]).sum() for penalty in (0.1, 100.0))
    assert hard < 0.5 * soft
    again = np.abs(gram.ridge(target, 0.1)[0]).sum()
    assert again == soft


def test_more_texts_than_a_block_have_the_same_slopes():
    rng = np.random.default_rng(3)
    dense = rng.random((1100, 40)) * (rng.random((1100, 40)) < 0.04)
    target = rng.standard_normal((1100, 1))
    slopes, _ = Gram(csr_matrix(dense)).ridge(target, 1.0)
    assert slopes[:, 0] == pytest.approx(Ridge(alpha=1.0).fit(dense, target[:, 0]).coef_, abs=1e-4)


def test_a_model_that_answered_only_some_texts_is_learnt_from_those():
    rows = []
    for number in range(40):
        score = number % 2
        text = f"{'river' if score else 'theorem'} number {number}"
        rows.append(TrainingRow(text, 0, float(score), "g"))
        if number < 20:
            rows.append(TrainingRow(text, 1, 1.0 - score, "g"))
    model = GroupModel()
    model.fit(rows[::-1], 2, np.random.default_rng(0))
    river, theorem = model.ask("river"), model.ask("theorem")
    assert river[0] > theorem[0] and river[1] < theorem[1]
