"""Scores are the ones a reader gets by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptmo_secure.attacks.kv import ScoredSession, clopper_pearson, score
from ptmo_secure.attacks.kv.statistics import shuffled_ids


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # tables of the exact binomial interval, 95 %
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (3, 10, 0.0667, 0.6525),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (1, 20, 0.0013, 0.2487),
        (10, 20, 0.2720, 0.7280),
        (50, 100, 0.3983, 0.6017),
    ],
)
def test_clopper_pearson_matches_published_tables(successes, trials, low, high):
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000))
def test_no_success_and_no_failure_have_closed_forms(trials):
    assert clopper_pearson(0, trials) == pytest.approx((0.0, 1 - 0.025 ** (1 / trials)))
    assert clopper_pearson(trials, trials) == pytest.approx((0.025 ** (1 / trials), 1.0))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_mirrors_it(case):
    successes, trials = case
    low, high = clopper_pearson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = clopper_pearson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_no_trial_says_nothing_and_impossible_counts_are_refused():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    for successes, trials in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"successes is {successes}, not in 0..5"):
            clopper_pearson(successes, trials)
    with pytest.raises(ValueError, match="confidence is 1"):
        clopper_pearson(1, 5, 1)


def session(ids, scored=None):
    mask = [True] * len(ids) if scored is None else [bool(s) for s in scored]
    return ScoredSession(np.array(ids), np.array(mask))


def test_an_id_counts_once_by_its_first_scored_occurrence():
    truth = [session([7, 8, 7, 9], [0, 1, 1, 1]), session([8, 7, 9, 5])]
    guesses = [np.array([7, 8, 0, 9]), np.array([0, 7, 9, 0])]
    result = score(guesses, truth, vocab_size=100, seed=0)
    # first scored occurrences: 8 right, 7 wrong (its earlier hit is template), 9 right, 5 wrong
    assert (result.tokens, result.distinct_ids) == (7, 4)
    assert result.top1 == 2 / 4
    assert result.ci95 == clopper_pearson(2, 4)
    assert result.top1_positions == 4 / 7
    assert result.ids_anywhere == 3 / 4
    assert result.chance == 2 / 7


def test_template_positions_never_change_a_score():
    scored = [0, 0, 1, 1, 0]
    truth = [session([1, 2, 30, 31, 3], scored)]
    right = score([np.array([1, 2, 30, 0, 3])], truth, 50, 0)
    wrong = score([np.array([9, 9, 30, 0, 9])], truth, 50, 0)
    assert right == wrong
    assert right.tokens == 2


def test_chance_is_a_uniform_guess_when_every_id_of_the_vocabulary_occurs_once():
    result = score([np.arange(10)], [session(list(range(10)))], vocab_size=10, seed=0)
    assert result.chance == 1 / 10


def test_the_control_of_a_perfect_attack_is_at_chance():
    rng = np.random.default_rng(0)
    ids = rng.permutation(50_000)[:2000]
    result = score([ids], [session(ids)], vocab_size=50_000, seed=3)
    assert result.top1 == 1.0
    assert result.control_top1 < 0.01


def test_the_controls_shuffle_is_a_seeded_permutation():
    shuffled = shuffled_ids(1000, seed=5)
    assert sorted(shuffled.tolist()) == list(range(1000))
    np.testing.assert_array_equal(shuffled, shuffled_ids(1000, seed=5))
    assert (shuffled != shuffled_ids(1000, seed=6)).any()


def test_guesses_that_do_not_fit_the_truth_are_refused():
    truth = [session([1, 2, 3])]
    with pytest.raises(ValueError, match="0 sessions guessed, 1 to score"):
        score([], truth, 10, 0)
    with pytest.raises(ValueError, match="session 0: 2 guesses for 3 tokens"):
        score([np.array([1, 2])], truth, 10, 0)
    with pytest.raises(ValueError, match="no token to score"):
        score([np.array([1, 2, 3])], [session([1, 2, 3], [0, 0, 0])], 10, 0)
