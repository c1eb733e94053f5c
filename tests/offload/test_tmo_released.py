"""TMO's learners as released: what their constraint does, and what the gate still keeps."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [rl]")

import torch
from stable_baselines3 import A2C, DQN, PPO

from ptmo_secure.offload import synthetic
from ptmo_secure.offload.envs.m4a1 import M4A1Env
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies.tmo import PenalisedLoss, TmoPpo, TmoRcPpo, _Private
from ptmo_secure.offload.rl.logs import silent_logger
from ptmo_secure.offload.rollout import run_episode

TIGHT = (5.0, 0.005)


def weights(kind, penalty, **options):
    torch.set_num_threads(1)
    env = M4A1Env(synthetic.conversations(), "train", 1, TIGHT, constrained=False)
    model = kind("MlpPolicy", env, seed=4, device="cpu", **options)
    model.set_logger(silent_logger())
    with PenalisedLoss(penalty) as loss:
        model.learn(256)
    assert loss.passes > 2
    return torch.cat([value.flatten() for value in model.policy.state_dict().values()])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PPO, {"n_steps": 128}),
        (A2C, {}),
        (DQN, {"learning_starts": 50}),
    ],
)
def test_the_released_penalty_leaves_every_weight_as_it_is_bit_for_bit(kind, options):
    plain, penalised = weights(kind, 0.0, **options), weights(kind, -3.7, **options)
    assert torch.equal(plain, penalised)


def test_a_penalty_that_had_a_gradient_would_show():
    parameter = torch.nn.Parameter(torch.ones(1))
    with PenalisedLoss(parameter.sum()):
        (2 * parameter).sum().backward()
    assert parameter.grad.item() == 2 - 10


def test_afterwards_backward_is_torchs_own():
    before = torch.Tensor.backward
    with pytest.raises(RuntimeError), PenalisedLoss(1.0):
        raise RuntimeError
    assert torch.Tensor.backward is before


def test_the_gate_keeps_privacy_for_it_and_nobody_its_budgets():
    conversations = synthetic.conversations()
    train = M4A1Env(conversations, "train", 1)
    test = M4A1Env(conversations, "test", 1, (6.0, 0.0))
    policy = TmoPpo(1, steps=128)
    policy.fit(train)
    policy.choose = lambda view, mask: 8  # three images, which no budget of 0 dollars allows
    played = [run_episode(test, policy, episode) for episode in range(test.episodes)]
    assert all(episode.over_budget and not episode.overruled for episode in played)
    policy.keeps_budgets = True
    assert not any(run_episode(test, policy, n).used[1] > 1e-6 for n in range(test.episodes))


def test_the_second_generation_sees_the_budget():
    train = M4A1Env(synthetic.conversations(), "train", 1)
    seen = []
    for kind in (TmoPpo, TmoRcPpo):
        policy = kind(1, steps=64)
        policy.fit(train)
        seen.append(policy._model.observation_space.shape[0])
        train.reset(options={"episode": 0})
        assert policy.choose(train.view(), np.ones(9, dtype=bool)) in range(9)
    assert seen == [25, 27]


def test_in_sessions_a_turn_that_ends_over_budget_earns_the_constrained_learner_nothing():
    train = SessionsEnv(synthetic.question_table(), "train", 1, config=SessionConfig(sessions=5))
    train.budgets = ((0.0, 0.0),)
    for constrained in (False, True):
        school = _Private(train, np.random.default_rng(0), constrained=constrained)
        school.reset(options={"episode": 0})
        done, earned = False, []
        while not done:
            allowed = np.flatnonzero(school._inside.private_mask())
            _, reward, done, _, info = school.step(allowed[-1])  # the cloud, wherever it may
            earned.append((reward, info["over_budget"]))
        assert any(over for _, over in earned)
        assert all(reward == 0 for reward, over in earned if over) == constrained
    assert np.isfinite(train.limits[1]) and train.limits[1] > 0  # its own budget is as it was
