"""What learners begin at: hashed words, the group model, lookahead; and what they learn in."""

import gymnasium as gym
import numpy as np
import pytest

from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.envs.m4a1 import BUDGETS, M4A1Env
from ptmo_secure.offload.envs.m4a1_device import M4A1DeviceEnv
from ptmo_secure.offload.hashed import SLOTS, HashedWords
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.policies.groups import GroupModel, load_words
from ptmo_secure.offload.rl.advice import Lookahead
from ptmo_secure.offload.rl.features import describe, layout_of
from ptmo_secure.offload.rl.schooling import School
from ptmo_secure.offload.rollout import mean_reward


@pytest.fixture(scope="module")
def talks():
    return synthetic.conversations()


def test_hashed_vectors_have_two_halves_of_length_one_and_known_weights():
    words = HashedWords.fitted(["apple pie", "apple tart", "apple pie"])
    places, weights = words.vector("apple pie")
    left, right = weights[places < SLOTS], weights[places >= SLOTS]
    assert (left**2).sum() == pytest.approx(1) and (right**2).sum() == pytest.approx(1)
    assert len(left) == 3  # apple, pie, apple pie
    common, rare = np.log(3 / 3) + 1, np.log(3 / 2) + 1  # two different texts
    assert sorted(left) == pytest.approx(
        sorted(np.array([common, rare, rare]) / np.sqrt(common**2 + 2 * rare**2))
    )
    assert words.vector("")[0].size == 0
    assert words.of(["apple pie", ""]).shape == (2, 2 * SLOTS)


def rows():
    found = []
    for number in range(60):
        for group, local, cloud in (("river", 0.9, 0.6), ("theorem", 0.1, 0.8)):
            text = f"the {group} number {number}"
            found += [TrainingRow(text, 0, local, group), TrainingRow(text, 1, cloud, group)]
    return found


def test_the_group_model_guesses_the_group_and_knows_its_scores(tmp_path):
    model = GroupModel()
    model.fit(rows(), 2, np.random.default_rng(0))
    texts = ["a river", "a theorem"]
    expected = np.array([[0.9, 0.6], [0.1, 0.8]])
    assert model.predict(texts) == pytest.approx(expected, abs=0.12)
    model.save(tmp_path / "words.npz")
    assert load_words(tmp_path / "words.npz").predict(texts) == pytest.approx(
        model.predict(texts), abs=2e-3
    )
    (tmp_path / "words.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="not a word model"):
        load_words(tmp_path / "words.npz")


def test_lookahead_adds_the_expected_best_of_the_next_turn(talks):
    env = M4A1Env(talks, "train", 1)
    ahead = Lookahead(env)
    assert ahead._next.sum(axis=1) == pytest.approx(np.ones(len(env.tasks)))
    env = env.practice(1)
    env.reset(options={"episode": 0})
    view, mask = env.view(), env.action_masks()
    now = view.reward(view.estimate)
    extra = ahead.rewards(view, mask) - now
    state = view.observation[:25].astype(float)
    expected = 0.0
    from ptmo_secure.offload.envs import response

    for task, chance in enumerate(ahead._next[int(state[-1])]):
        after = response.next_states(state[None], task)[4]  # the cloud with the third image
        expected += chance * (env.model.of(after) + view.rest).max()
    assert extra[4] == pytest.approx(ahead._goes_on[0] * expected)
    assert ahead._goes_on[-1] == 0


def test_lookahead_does_not_count_on_what_the_budget_will_forbid(talks):
    env = M4A1Env(talks, "train", 1).practice(1)
    ahead = Lookahead(env)
    env.set_budget((7.0, 0.05))  # seconds of one cloud answer
    env.reset(options={"episode": 0})
    view, mask = env.view(), env.action_masks()
    tight = ahead.rewards(view, mask)
    env.set_budget((30.0, 0.05))
    env.reset(options={"episode": 0})
    assert tight[1] < ahead.rewards(env.view(), mask)[1]
    assert tight[0] == pytest.approx(ahead.rewards(env.view(), mask)[0])


@pytest.mark.parametrize("kind", [M4A1Env, M4A1DeviceEnv])
def test_what_was_foreseen_is_not_computed_again_and_changes_no_reward(talks, kind, monkeypatch):
    env = kind(talks, "train", 1)
    plain, ahead = Lookahead(env), Lookahead(env)
    test, draws, asked = env.practice(2), np.random.default_rng(0), []
    predict = type(env.model).predict

    def counted(model, states):
        asked.append(len(states))
        return predict(model, states)

    monkeypatch.setattr(type(env.model), "predict", counted)
    turns = 0
    for episode in range(60):
        test.set_budget(test.budgets[episode % len(test.budgets)])
        test.reset(options={"episode": episode})
        done = False
        while not done:
            view, mask = test.view(), test.action_masks()
            asked.clear()
            found = ahead.rewards(view, mask)
            assert asked == []
            assert found.tolist() == plain.rewards(view, mask).tolist()  # to the last bit
            action = int(draws.choice(np.flatnonzero(mask)))
            ahead.foresee(view, action)
            _, _, done, _, _ = test.step(action)
            turns += 1
    assert turns > 150


def test_the_advice_foresees_while_an_answer_is_made(talks):
    train = M4A1Env(talks, "train", 1)
    advice = make_policy("advice", 1)
    advice.fit(train)
    train.reset(options={"episode": 0})
    known = len(advice._advice._known)
    advice.observe(train.view(), 3, 0.5)
    assert len(advice._advice._known) > known


def test_advice_beats_greedy_where_actions_change_what_comes(talks):
    train = M4A1Env(talks, "train", 1)
    test = train.practice(9)
    advice = make_policy("advice", 1)
    advice.fit(train)
    assert mean_reward(test, advice, 60) > mean_reward(test, make_policy("greedy", 1), 60)


def test_made_up_conversations_are_of_the_split_and_run_as_a_test_does(talks):
    train = M4A1Env(talks, "train", 1)
    own = {turn for script in train.scripts for turn in script.turns}
    lengths = {len(script.turns) for script in train.scripts}
    practice = train.practice(3)
    assert practice.episodes == 2000 and train.episodes < 60
    assert all(set(script.turns) <= own for script in practice.scripts)
    assert {len(script.turns) for script in practice.scripts} == lengths
    again = train.practice(3)
    assert again.scripts[7].turns == practice.scripts[7].turns
    practice.reset(options={"episode": 7})
    seen, *_ = practice.step(8)
    assert seen[-6:-2].tolist()[0:3] == [1, 1, 1] or seen[20] == 1  # what was done stands there


def test_a_school_shows_features_masks_and_budgets_of_every_size(talks):
    train = M4A1Env(talks, "train", 1)
    school = School(train, BUDGETS, Lookahead(train), 1)
    shift, scale, cost = school.normal()
    assert shift.shape == scale.shape == (school.layout.body,)
    assert cost[0] > 1 and cost[3] == 0
    seen, _ = school.reset()
    assert seen.dtype == np.float32 and seen.shape == (school.layout.size,)
    limits = set()
    for _ in range(40):
        seen, _ = school.reset()
        limits.add(round(float(school.env.limits[0]), 3))
        assert seen[school.layout.mask].astype(bool).tolist() == school.action_masks().tolist()
    assert {30.0, 20.0, 12.0, 6.0} <= limits and len(limits) > 8
    assert min(limits) >= 6 and max(limits) <= 30
    assert isinstance(school, gym.Env)


def test_a_school_knows_no_way_between_a_budget_and_none(talks):
    train = M4A1Env(talks, "train", 1)
    school = School(train, ((30.0, 0.0), (np.inf, 0.05)), Lookahead(train), 1)
    shown = set()
    for _ in range(60):
        school.reset()
        shown.add(tuple(school.env.limits[:2].tolist()))
    assert shown == {(30.0, 0.0), (np.inf, 0.05)}


def test_a_school_refuses_what_the_gate_forbids(talks):
    train = M4A1Env(talks, "train", 1)
    school = School(train, ((0.0, 0.0),), Lookahead(train), 1)
    school.reset()
    with pytest.raises(SecurityError, match="action 8"):
        school.step(8)


def test_features_hold_no_number_that_breaks_a_network(talks):
    env = M4A1Env(talks, "train", 1).practice(1)
    env.reset(options={"episode": 0})
    view = env.view()
    broken = describe(
        view, np.full(9, np.nan), np.ones(9, bool), np.full(4, np.inf), np.full(4, 1e-30)
    )
    assert np.isfinite(broken).all() and broken.shape == (layout_of(view).size,)
