"""Each baseline does what its name says, inside what it is allowed."""

import dataclasses

import numpy as np
import pytest
from quick_policies import HERE, quick_policy

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.actions import Kind
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.policies.bandits import ConstraintUcb, LinUcb
from ptmo_secure.offload.policies.knn import KnnModel
from ptmo_secure.offload.policies.matrix import MatrixModel
from ptmo_secure.offload.policies.moaoff import complexity
from ptmo_secure.offload.policies.tfidf import TfidfModel, TfidfRouter
from ptmo_secure.offload.rollout import mean_reward, run_episode

ALL = np.ones(5, dtype=bool)


@pytest.fixture(scope="module")
def env():
    config = SessionConfig(sessions=14)
    return SessionsEnv(synthetic.question_table(150), "train", 1, (1.0, 1.0), config)


@pytest.fixture(scope="module")
def view(env):
    """A public turn, all five actions allowed."""
    for episode in range(env.episodes):
        env.reset(options={"episode": episode})
        if env.action_masks().all():
            return env.view()
    pytest.fail("no session begins with a public turn")


def kind(view, action):
    return view.actions[action].kind


def test_the_plainest_ones_do_what_their_names_say(view):
    assert kind(view, make_policy("local-only", 0).choose(view, ALL)) is Kind.LOCAL
    assert kind(view, make_policy("cloud-only", 0).choose(view, ALL)) is Kind.CLOUD
    assert kind(view, make_policy("rule", 0).choose(view, ALL)) is Kind.CLOUD
    drawn = {make_policy("random", seed).choose(view, ALL) for seed in range(50)}
    assert drawn == set(range(5))


def test_cloud_only_sends_as_much_as_it_may(view):
    policy = make_policy("cloud-only", 0)
    assert kind(view, policy.choose(view, np.array([1, 0, 1, 1, 1], bool))) is Kind.MASKED
    assert kind(view, policy.choose(view, np.array([1, 0, 0, 1, 0], bool))) is Kind.HYBRID
    assert kind(view, policy.choose(view, np.array([1, 0, 0, 0, 0], bool))) is Kind.LOCAL


def test_greedy_takes_the_best_reward_and_threshold_a_gain_of_a_tenth(view):
    estimate = np.array([0.5, 0.55, 0.0, 0.0, 0.0])
    flat = dataclasses.replace(view, estimate=estimate, rest=np.zeros(5))
    assert make_policy("greedy", 0).choose(flat, ALL) == 1
    assert make_policy("threshold", 0).choose(flat, ALL) == 0
    better = dataclasses.replace(flat, estimate=np.array([0.5, 0.61, 0.0, 0.0, 0.0]))
    assert make_policy("threshold", 0).choose(better, ALL) == 1
    dear = dataclasses.replace(flat, rest=np.array([0.0, -1.0, 0, 0, 0]))
    assert make_policy("greedy", 0).choose(dear, ALL) == 0


def rows():
    easy = [f"name the river number {n}" for n in range(30)]
    hard = [f"prove the theorem number {n}" for n in range(30)]
    found = [TrainingRow(text, 0, 1.0) for text in easy] + [TrainingRow(t, 0, 0.0) for t in hard]
    return found + [TrainingRow(text, 1, 0.9) for text in easy + hard]


@pytest.mark.parametrize("model", [TfidfModel, KnnModel, MatrixModel])
def test_each_score_model_learns_which_words_are_hard(model):
    fitted = model()
    fitted.fit(rows(), 2, np.random.default_rng(0))
    scores = fitted.predict(["name the river", "prove the theorem"])
    assert scores.shape == (2, 2)
    assert scores[0, 0] > scores[1, 0] + 0.3
    assert scores[:, 1] == pytest.approx([0.9, 0.9], abs=0.15)


def test_a_model_without_answers_is_predicted_to_score_nothing():
    for model in (TfidfModel(), KnnModel()):
        model.fit([row for row in rows() if row.arm == 0], 2, np.random.default_rng(0))
        assert model.predict(["name the river"])[0, 1] == 0


def test_a_router_is_tuned_to_its_budget(env):
    router = TfidfRouter(1)
    router.fit(env)
    thresholds = []
    for share in (0.2, 1.5):
        env.set_budget((share, 1.0))
        router.tune(env)
        thresholds.append(router._threshold)
    assert thresholds[0] > thresholds[1]
    env.set_budget((1.0, 1.0))


def test_a_bandit_prefers_what_paid(view):
    for bandit in (ConstraintUcb(0), LinUcb(0)):
        bandit.WIDTH = 0.01
        for _ in range(20):
            for action in range(5):
                bandit.choose(view, ALL)
                bandit.observe(view, action, 1.0 if action == 3 else 0.0)
        flat = dataclasses.replace(view, rest=np.zeros(5))
        assert bandit.choose(flat, ALL) == 3
        assert bandit.choose(flat, np.array([1, 1, 1, 0, 1], bool)) != 3


def test_a_text_is_complex_when_it_is_long_varied_and_its_words_are():
    assert complexity("") == 0
    simple, hard = complexity("a a a a"), complexity("Differentiate transcendental equations")
    assert 0 < simple < hard < 1


def test_an_oracle_needs_the_truth():
    for name in ("query-oracle", "constrained-oracle"):
        with pytest.raises(EngineError, match="true outcomes"):
            make_policy(name, 0).begin(None)


def test_an_unknown_policy_is_named():
    with pytest.raises(InputError, match="unknown policy 'zork'"):
        make_policy("zork", 0)


@pytest.mark.parametrize("name", HERE)
def test_every_policy_plays_inside_the_gate_without_being_overruled(env, name):
    policy = quick_policy(name, 1)
    policy.fit(env)
    env.set_budget((0.5, 0.05))
    played = [run_episode(env, policy, episode) for episode in range(10)]
    env.set_budget((1.0, 1.0))
    assert sum(episode.overruled for episode in played) == 0
    assert not (policy.keeps_budgets and any(episode.over_budget for episode in played))


def test_a_seed_makes_a_policy_repeat_itself(env):
    earned = [mean_reward(env, make_policy("random", seed), 10) for seed in (4, 4, 5)]
    assert earned[0] == earned[1] != earned[2]
