"""One episode, played by a policy through the gate."""

import time
from dataclasses import dataclass, field

import numpy as np

from ptmo_secure.offload import gate
from ptmo_secure.offload.account import EpsilonAccount
from ptmo_secure.offload.actions import RISK, Floats
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy


@dataclass(slots=True)
class Episode:
    """What came of one episode.

    Args:
        rewards, qualities: of each turn.
        used: of each resource, [4].
        risks: of each turn.
        overruled: turns in which the gate replaced the policy's choice.
        over_budget: whether a finite budget was exceeded.
        decided_s: of each turn, what gate and policy took together: seconds of the thread's CPU
            time, and by the clock.
    """

    rewards: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    used: Floats = field(default_factory=lambda: np.zeros(4))
    risks: list[float] = field(default_factory=list)
    overruled: int = 0
    over_budget: bool = False
    decided_s: list[tuple[float, float]] = field(default_factory=list)


def run_episode(
    env: OffloadEnv, policy: Policy, episode: int, account: EpsilonAccount | None = None
) -> Episode:
    """Play one episode through the gate.

    Args:
        env: of any split.
        policy: fitted already.
        episode: its number.
        account: hard budget of risk over all episodes; a policy that keeps no budgets does not keep
            this one.
    """
    env.reset(options={"episode": episode})
    policy.begin(env.truth() if policy.needs_truth else None)
    result = Episode()
    held = account if policy.keeps_budgets else None
    done = False
    while not done:
        view = env.view() if policy.keeps_budgets else gate.without_budgets(env.view())
        if held is not None:
            view = held.held(view)
        clock, cpu = time.perf_counter(), time.thread_time()
        decision = gate.decide(view, policy.choose)
        taken = time.thread_time() - cpu, time.perf_counter() - clock
        _, reward, done, _, info = env.step(np.int64(decision.action))
        policy.observe(view, decision.action, info["quality"])
        result.decided_s.append(taken)
        result.rewards.append(float(reward))
        result.qualities.append(info["quality"])
        result.used += info["cost"]
        result.risks.append(float(info["cost"][RISK]))
        if held is not None:
            held.spend(result.risks[-1])
        result.overruled += decision.overruled
        result.over_budget = info["over_budget"]
    policy.settle(result.used)
    return result


def mean_reward(env: OffloadEnv, policy: Policy, episodes: int) -> float:
    """Return what a policy earns per turn over the first episodes of an environment."""
    count = min(episodes, env.episodes)
    played = [run_episode(env, policy, episode) for episode in range(count)]
    return float(np.mean([np.mean(episode.rewards) for episode in played]))
