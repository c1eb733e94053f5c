"""The step function from score to probability."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.privacy.calibration import (
    NOT_PUBLIC,
    Calibration,
    cross_fitted,
    expected_calibration_error,
    fit,
)
from ptmo_secure.privacy.suites import chats
from tee_sim.guard.ner import open_model
from tee_sim.guard.scoring import scan_text

items = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None)
@given(items)
def test_a_fitted_function_is_monotone_and_a_probability(pairs):
    scores, outcomes = [s for s, _ in pairs], [o for _, o in pairs]
    fitted = fit(scores, outcomes)
    said = [fitted(score) for score in sorted(scores)]
    assert said == sorted(said)
    assert all(0.0 <= p <= 1.0 for p in said)
    assert fitted.starts[0] == 0.0
    assert list(fitted.starts) == sorted(set(fitted.starts))


def test_violators_are_pooled():
    scores = [0.1] * 100 + [0.5] * 100 + [0.9] * 100
    outcomes = [True] * 60 + [False] * 40 + [True] * 40 + [False] * 60 + [True] * 100
    fitted = fit(scores, outcomes)
    assert fitted.starts == (0.0, 0.9)
    assert fitted(0.1) == fitted(0.5) == pytest.approx(0.5, abs=0.01)
    assert fitted(0.9) == pytest.approx(1.0, abs=0.01)


def test_one_item_does_not_make_a_certainty():
    assert 0.5 < fit([0.0, 1.0], [False, True])(1.0) < 0.7


def test_the_calibration_error_is_the_mean_gap():
    assert expected_calibration_error([0.95] * 10, [True] * 10) == pytest.approx(0.05)
    assert expected_calibration_error([0.25] * 4, [True, False, False, False]) == 0.0
    assert expected_calibration_error([0.05, 0.95], [True, False]) == pytest.approx(0.95)
    assert expected_calibration_error([1.0], [False]) == 1.0


def test_cross_fitting_leaves_an_item_out_of_its_own_function():
    scores, outcomes = [0.5] * 20, [index % 10 == 3 for index in range(20)]
    said = cross_fitted(scores, outcomes)
    assert said[3] < said[4]  # its fold held the only events


def test_honest_scores_come_out_calibrated():
    draw = random.Random(7)
    scores = [draw.random() for _ in range(4000)]
    outcomes = [draw.random() < score for score in scores]
    assert expected_calibration_error(cross_fitted(scores, outcomes), outcomes) < 0.05


def test_nothing_to_fit_to_is_refused():
    for scores, outcomes in (([], []), ([0.5], [True, False])):
        with pytest.raises(ValueError, match="scores"):
            fit(scores, outcomes)


def test_the_shipped_function_fits_the_labelled_chats():
    private = [chat.level != "PUBLIC" for chat in chats()]
    model = open_model()
    said = [NOT_PUBLIC(scan_text(chat.text, classifier=model).score) for chat in chats()]
    assert expected_calibration_error(said, private) < 0.02
    assert isinstance(NOT_PUBLIC, Calibration)
