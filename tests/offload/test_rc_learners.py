"""RC-PPO, RC-A2C and RC-DQN on a process whose constrained optimum a linear programme knows."""

import numpy as np
import pytest
from constrained_process import LAYOUT, RESOURCE, SmallCmdp, optimum

pytest.importorskip("stable_baselines3", reason="needs the extra [rl]")
pytest.importorskip("sb3_contrib", reason="needs the extra [rl]")

import torch

from ptmo_secure.errors import InputError
from ptmo_secure.offload.rl.a2c import RcA2c
from ptmo_secure.offload.rl.buffers import CostRolloutBuffer
from ptmo_secure.offload.rl.dqn import RcDqn
from ptmo_secure.offload.rl.lagrangian import Gains, PidMultipliers
from ptmo_secure.offload.rl.logs import silent_logger
from ptmo_secure.offload.rl.network import load_network
from ptmo_secure.offload.rl.pilot import Pilot
from ptmo_secure.offload.rl.ppo import RcPpo
from ptmo_secure.offload.rl.prices import Prices

LIMIT = 1.5
PLAIN = np.zeros(LAYOUT.body), np.ones(LAYOUT.body)
STEPS = {RcPpo: 5_000, RcA2c: 16_000, RcDqn: 5_000}
SHARE = {RcPpo: 0.95, RcA2c: 0.85, RcDqn: 0.95}  # A2C learns from each step once


def learner(kind, limit=LIMIT, env=None, seed=3, **options):
    torch.set_num_threads(1)
    env = env or SmallCmdp(limit)
    limits, units = np.full(4, np.inf), np.ones(4)
    limits[RESOURCE] = limit
    if np.isfinite(limit):
        units[RESOURCE] = limit
    start = np.where(np.isfinite(limits), 1.0, 0.0)
    held = PidMultipliers(limits, Gains(kp=0.5, ki=0.05, kd=0.2, smoothing=0.5), start)
    env.show(held.value)
    prices = Prices(held, env.show, units)
    if kind is RcPpo:
        options = {"n_steps": 256, "batch_size": 64, "learning_rate": 1e-3, **options}
    model = kind(env, LAYOUT, *PLAIN, prices, seed=seed, **options)
    model.set_logger(silent_logger())
    return model, prices


def flown(model, episodes):
    """Rewards and costs of episodes in which the exported network decides, in NumPy."""
    pilot, env = Pilot(model.network(), seed=5), SmallCmdp(LIMIT)
    earned, spent = [], []
    for number in range(episodes):
        env.show(pilot.prices)
        seen, _ = env.reset(seed=number)
        reward, cost, done = 0.0, np.zeros(4), False
        while not done:
            seen, gain, done, _, info = env.step(pilot.act(seen, env.action_masks()))
            reward, cost = reward + gain, cost + info["cost"]
        pilot.ended(cost)
        earned.append(reward)
        spent.append(cost[RESOURCE])
    return np.array(earned), np.array(spent)


@pytest.mark.parametrize("kind", [RcPpo, RcA2c, RcDqn])
def test_it_meets_the_limit_and_earns_what_the_linear_programme_does(kind):
    best = optimum(LIMIT)[0]
    model, _ = learner(kind)
    model.learn(STEPS[kind])
    earned, spent = flown(model, 4000)
    late = slice(1000, None)  # the multiplier settles first
    assert spent[late].mean() == pytest.approx(LIMIT, rel=0.02)
    assert SHARE[kind] * best < earned[late].mean() < 1.03 * best


@pytest.mark.parametrize("kind", [RcPpo, RcA2c, RcDqn])
def test_a_forbidden_action_is_never_tried(kind):
    model, _ = learner(kind, np.inf, SmallCmdp(1.0, forbidden=(2,)))
    model.learn(600)  # the environment asserts it
    features, _ = SmallCmdp(1.0, forbidden=(2,)).reset(seed=1)
    assert model.network().best(features, np.array([True, True, False])) in (0, 1)


def test_the_lagrangian_advantage_is_that_of_the_formula():
    env = SmallCmdp(1.0)
    buffer = CostRolloutBuffer(3, env.observation_space, env.action_space, "cpu", 0.9, 0.5, 1)
    values = torch.tensor([[[1.0, 0.5, 0, 0, 0]], [[2.0, 0.2, 0, 0, 0]], [[0.5, 0.1, 0, 0, 0]]])
    rewards, costs = [1.0, 3.0, 2.0], [2.0, 0.0, 4.0]
    seen = np.zeros((1, LAYOUT.size), np.float32)
    seen[0, -4] = 0.5  # the price of the first resource
    for step in range(3):
        cost = np.array([costs[step], 0, 0, 0])
        buffer.take_costs([{"cost": cost}])
        start = np.array([float(step == 2)])  # an episode ends after the second step
        action = np.zeros((1, 1))
        buffer.add(seen, action, np.array([rewards[step]]), start, values[step], torch.zeros(1))
    buffer.compute_returns_and_advantage(torch.tensor([[4.0, 1.0, 0, 0, 0]]), np.array([False]))

    def advantages(gains, value, last):
        third = gains[2] + 0.5 * last - value[2]
        second = gains[1] - value[1]
        return [gains[0] + 0.5 * value[1] - value[0] + 0.45 * second, second, third]

    by_reward = np.array(advantages(rewards, [1.0, 2.0, 0.5], 4.0))
    by_cost = np.array(advantages(costs, [0.5, 0.2, 0.1], 1.0))
    expected = (by_reward - 0.5 * by_cost) / 1.5
    assert buffer.advantages[:, 0] == pytest.approx(expected, abs=1e-6)
    assert buffer.returns[:, 0, 1] == pytest.approx(by_cost + np.array([0.5, 0.2, 0.1]), abs=1e-6)


def test_without_limits_rc_a2c_makes_the_very_steps_of_a2c():
    """The claim of its docstring: PPO's one whole step is A2C's."""
    model, _ = learner(RcA2c, np.inf, learning_rate=1e-3, ent_coef=0.0)
    model.prices.units = np.full(4, np.inf)
    model.rollout_buffer.units = np.full(4, np.inf)  # costs of 0: their critics learn nothing else
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(16)
    rows = next(model.rollout_buffer.get())
    wanted = type(model.policy)(
        model.observation_space,
        model.action_space,
        lambda _: 1e-3,
        **model.policy_kwargs,
    )
    wanted.load_state_dict(before)
    values, log_prob, _ = wanted.evaluate_actions(
        rows.observations, rows.actions.long().flatten(), rows.action_masks
    )
    gap = torch.nn.functional.mse_loss(rows.returns, values.flatten())
    loss = -(rows.advantages * log_prob).mean() + model.vf_coef * gap  # A2C's, with no bonus
    loss.backward()
    torch.nn.utils.clip_grad_norm_(wanted.parameters(), model.max_grad_norm)
    wanted.optimizer.step()
    for name, value in wanted.state_dict().items():
        assert value.numpy() == pytest.approx(model.policy.state_dict()[name].numpy(), abs=1e-6)


@pytest.mark.parametrize("kind", [RcPpo, RcDqn])
def test_the_exported_network_prefers_what_the_torch_one_does(kind, tmp_path):
    model, _ = learner(kind)
    model.learn(700)
    model.network().save(tmp_path / "policy.npz")
    read = load_network(tmp_path / "policy.npz")
    table = model.q_net if kind is RcDqn else model.policy.mlp_extractor.actor
    rng = np.random.default_rng(0)
    for _ in range(20):
        features = rng.random(LAYOUT.size).astype(np.float32)
        found = table.preferences(torch.as_tensor(features[None])).detach().numpy()[0]
        assert read.preferences(features) == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:200], lambda raw: b"not a policy", lambda raw: b""],
)
def test_a_damaged_policy_is_refused_in_one_line(damage, tmp_path):
    model, _ = learner(RcDqn)
    path = tmp_path / "policy.npz"
    model.network().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"policy\.npz"):
        load_network(path)


def test_too_little_entropy_makes_its_weight_grow():
    model, _ = learner(RcPpo, entropy_floor=5.0)
    model.learn(1100)
    assert model.ent_coef > 0.002
    model, _ = learner(RcPpo, entropy_floor=0.0)
    model.learn(1100)
    assert model.ent_coef == pytest.approx(1e-3)
