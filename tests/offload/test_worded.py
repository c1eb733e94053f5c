"""Advice for sessions: both models' scores together, topics that stay, dollars at a price."""

import numpy as np
import pytest

from ptmo_secure.offload import synthetic
from ptmo_secure.offload.actions import USD
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.envs.session_data import SAME_TOPIC
from ptmo_secure.offload.envs.session_model import CLOUD, ESCALATE, LOCAL
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.gate import allowed
from ptmo_secure.offload.policies.base import best
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.rl.advice import advice_for
from ptmo_secure.offload.rl.schooling import School
from ptmo_secure.offload.rl.worded import WordAdvice, Worded, joint_rows


@pytest.fixture(scope="module")
def env():
    table = synthetic.question_table(300)
    return SessionsEnv(table, "train", 1, config=SessionConfig(sessions=80))


@pytest.fixture(scope="module")
def words(env):
    return Worded(env, 1)


def view_of(env, episode=0, turns=0):
    env.reset(options={"episode": episode})
    for _ in range(turns):
        env.step(LOCAL)
    return env.view()


def test_training_questions_are_scored_by_models_that_have_not_seen_them(env, words):
    view = view_of(env)
    seen, unseen = (words.scores(view, learning=learning) for learning in (False, True))
    assert np.abs(seen - unseen).max() > 1e-6
    right = env.turn.scores
    assert np.abs(seen[:2] - right).sum() < np.abs(unseen[:2] - right).sum() + 0.2


def test_rows_of_both_models_give_their_product_and_others_none():
    rows = [TrainingRow("a", 0, 0.5, "g"), TrainingRow("a", 1, 0.8, "g"), TrainingRow("b", 1, 1.0)]
    made = joint_rows(rows)
    assert made[:3] == rows
    assert made[3:] == [TrainingRow("a", 2, 0.4, "g")]


def test_an_escalation_is_worth_less_where_both_models_fail_together(env):
    view = view_of(env)
    wrong, right = view.check
    scores, keep = np.array([0.5, 0.6]), view.retained[ESCALATE]
    together = view.quality(scores, 0.5)  # the cloud is right wherever the device is
    apart = view.quality(scores, 0.1)
    own = 0.5 * (1 - right)
    assert together[ESCALATE] == pytest.approx(own + keep * (wrong * 0.1 + right * 0.5))
    assert apart[ESCALATE] == pytest.approx(own + keep * (wrong * 0.5 + right * 0.1))
    assert together[CLOUD] == apart[CLOUD] and together[LOCAL] == apart[LOCAL]
    assert view.quality(scores)[ESCALATE] == pytest.approx(view.quality(scores, 0.3)[ESCALATE])


@pytest.mark.parametrize(("both", "within"), [(0.9, 0.5), (0.0, 0.1), (-1.0, 0.1)])
def test_a_chance_of_both_that_cannot_be_is_brought_within_what_can(env, both, within):
    view, scores = view_of(env), np.array([0.5, 0.6])
    assert view.quality(scores, both)[ESCALATE] == view.quality(scores, within)[ESCALATE]


def test_an_escalation_is_expected_to_pay_only_where_it_is_doubted(env):
    view = view_of(env)
    wrong, right = view.check
    sure, lost = view.expected_cost(1.0), view.expected_cost(0.0)
    assert sure[ESCALATE, USD] == pytest.approx(right * view.cost[ESCALATE, USD])
    assert lost[ESCALATE, USD] == pytest.approx(wrong * view.cost[ESCALATE, USD])
    assert (sure[:ESCALATE] == view.cost[:ESCALATE]).all()


def test_a_session_remembers_its_earlier_questions_and_no_later_one(env):
    env.reset(options={"episode": 3})
    asked = [turn.question for turn in env.sessions[3]]
    for turn in range(len(asked)):
        assert env.view().history == tuple(asked[:turn])
        env.step(LOCAL)


def test_how_long_sessions_stay_with_a_topic_is_learnt(words):
    assert words.model.stay == pytest.approx(SAME_TOPIC, abs=0.11)


def test_earlier_questions_tell_the_topic_of_one_that_says_nothing():
    rows = []
    for number in range(40):
        for group, score in (("river", 0.9), ("theorem", 0.1)):
            rows.append(TrainingRow(f"the {group} number {number}", 0, score, group))
    model = GroupModel()
    model.fit(rows, 1, np.random.default_rng(0))
    alone = model.ask("well")[0]
    assert model.ask("well", ["the river", "a river"])[0] == alone  # no topic is kept to yet
    model.stay = np.array(0.7)
    told = model.ask("well", ["the river", "a river"])[0]
    assert told > alone + 0.1 > model.ask("well", ["the theorem"])[0]
    assert model.ask("well")[0] == alone


def test_the_price_is_what_practice_sessions_are_expected_to_earn_most_with(env, words):
    practice = env.practice(1)
    earned = {}
    learnt = words.price
    unit = float(np.mean([view_of(practice, n).cost[:, USD].max() for n in range(50)]))
    for price in (learnt, 0.0, 0.3 / unit):
        words.price = price
        earned[price] = sum(words._tried(practice, budget, 80) for budget in practice.budgets)
    words.price = learnt
    assert earned[learnt] == max(earned.values())
    assert earned[learnt] > earned[0.3 / unit] + 0.005  # so dear that hardly anything is sent


def test_a_dear_dollar_keeps_turns_on_the_device(env):
    view = view_of(env)
    mask = allowed(view)
    model = GroupModel()
    model.fit(joint_rows(env.training_rows()), 3, np.random.default_rng(0))
    assert best(WordAdvice(model, 1e9).rewards(view, mask), mask) == LOCAL
    free = WordAdvice(model).rewards(view, mask)
    scores = WordAdvice(model).scores(view)
    assert free == pytest.approx(view.reward(view.quality(scores[:2], scores[2])))


def test_practice_sessions_are_many_and_of_the_questions_of_the_split(env):
    practice = env.practice(5)
    asked = {turn.question for session in practice.sessions for turn in session}
    assert practice.episodes == 2000 and env.episodes == 80
    assert asked <= {row.text for row in env.training_rows()}
    assert [s[0].text for s in env.practice(5).sessions] == [s[0].text for s in practice.sessions]
    practice.reset(options={"episode": 1999})
    assert practice.view().text == practice.sessions[1999][0].question


def test_a_learner_earns_what_is_expected_of_a_turn_and_no_luck(env, words):
    school = School(env, env.budgets, words, 1)
    school.reset()
    for _ in range(5):
        expected = words.expected(school.env.view())
        action = int(np.flatnonzero(school.action_masks())[-1])
        _, reward, done, _, _ = school.step(action)
        assert reward == pytest.approx(expected[action])
        if done:
            break


def test_learners_of_one_environment_share_its_advice(env, words):
    first = advice_for(env, 4)
    assert advice_for(env, 4) is first and advice_for(env, 5) is not first
