"""APGR and its kin by hand, and the routers on real tables against their anchors."""

import numpy as np
import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.offload import outcomes, routing, synthetic
from ptmo_secure.offload.evaluate import mean_interval

SCORES = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])


def pgr(gain, scores=SCORES):
    return routing.recovered(scores, np.array(gain), np.random.default_rng(0))


def test_recovery_follows_the_order_of_the_predicted_gains():
    assert pgr([4.0, 1.0, 2.0, 3.0]).tolist() == [0, 0.5, 1, 1, 1]
    assert pgr([1.0, 4.0, 3.0, 2.0]).tolist() == [0, 0, 0, 0.5, 1]


def test_the_area_is_a_half_on_the_diagonal_and_more_for_an_oracle():
    assert routing.area(np.linspace(0, 1, 11)) == pytest.approx(0.5)
    assert routing.area(np.array([0, 0.5, 1, 1, 1])) == pytest.approx(0.75)


def test_the_call_share_is_the_first_that_recovers_enough():
    curve = pgr([4.0, 1.0, 2.0, 3.0])
    assert routing.call_share(curve, 0.5) == 0.25
    assert routing.call_share(curve, 0.8) == 0.5


def test_without_a_gap_there_is_nothing_to_recover():
    with pytest.raises(InputError, match="nothing to recover"):
        pgr([1.0, 2.0], np.array([[1.0, 1.0], [1.0, 0.0]]))


def test_an_oracle_recovers_more_than_the_gap_where_the_local_model_is_right_alone():
    row = routing.evaluate_routers(synthetic.question_table(), ["oracle"], "questions", 1)[0]
    assert row.apgr > 1 and row.cpt80 < 0.5


def test_chance_recovers_half_over_many_seeds():
    table = synthetic.question_table()
    areas = [
        routing.evaluate_routers(table, ["random"], "questions", seed)[0].apgr for seed in range(30)
    ]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)


def test_a_domain_is_in_one_fold_and_folds_are_all_used():
    table = synthetic.question_table()
    fold = routing.folds(table, "domains", np.random.default_rng(0))
    for domain in set(table.groups):
        assert len({f for f, group in zip(fold, table.groups, strict=True) if group == domain}) == 1
    assert set(fold) == set(range(5))
    by_question = routing.folds(table, "questions", np.random.default_rng(0))
    assert np.bincount(by_question).tolist() == [180] * 5


def test_a_router_finds_the_hard_questions_of_the_synthetic_table():
    row = routing.evaluate_routers(synthetic.question_table(), ["tfidf"], "questions", 1)[0]
    assert row.apgr > 0.58


@pytest.mark.slow
@pytest.mark.parametrize(("name", "anchor"), [("llmrouter", 0.765), ("mmlu", 0.670)])
def test_tfidf_comes_near_its_anchor(data, name, anchor):
    table = outcomes.load_table(name, data)
    areas = [
        routing.evaluate_routers(table, ["tfidf"], "questions", seed)[0].apgr for seed in (1, 2)
    ]
    # The anchors kept repeated questions (llmrouter) and contaminated prompts (mmlu) in their data.
    assert np.mean(areas) == pytest.approx(anchor, abs=0.03)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="router 'zork'"):
        routing.evaluate_routers(synthetic.question_table(), ["zork"], "questions", 1)
    with pytest.raises(InputError, match="split 'days'"):
        routing.folds(synthetic.question_table(), "days", np.random.default_rng(0))


def test_students_interval_of_five_seeds_is_the_textbooks():
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert (low, high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-3)
    assert mean_interval([2.0]) == (2.0, 2.0, 2.0)
