"""Policies beside each other: the same episodes, the same gate, several seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.stats import t as student  # type: ignore[attr-defined,unused-ignore]  # no stubs

from ptmo_secure.offload.account import EpsilonAccount, composed
from ptmo_secure.offload.actions import ENERGY, LATENCY, RESOURCES, RISK, USD
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy
from ptmo_secure.offload.rollout import run_episode

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in one environment, with one seed and one budget.

    Args:
        env, policy, seed, budget: what ran.
        reward, quality: mean over the turns of an episode, then over the episodes.
        latency_s, usd, energy_j, leakage: of an episode, mean over the episodes; leakage is the
            expected number of private values that left readable.
        violations: share of episodes that exceeded a finite budget.
        overruled: share of turns in which the gate replaced the policy's choice.
        episodes: how many.
        limit_errors: mean use over its limit, less 1, of each resource whose mean has a limit.
        epsilon: risk of all episodes together, composed (`EpsilonAccount`).
        decision_ms: of a turn's decision, gate and policy together: median and 99th percentile of
            the thread's CPU time, and by the clock. The one thing that differs when all else is
            measured again, and so no part of what makes two rows equal.
    """

    env: str
    policy: str
    seed: int
    budget: str
    reward: float
    quality: float
    latency_s: float
    usd: float
    energy_j: float
    leakage: float
    violations: float
    overruled: float
    episodes: int
    limit_errors: dict[str, float] = field(default_factory=dict)
    epsilon: float = 0.0
    decision_ms: dict[str, float] = field(default_factory=dict, compare=False)

    def as_json(self) -> dict[str, object]:
        """The row as a JSON object."""
        return asdict(self)


def evaluate(
    env: OffloadEnv,
    policy: Policy,
    env_name: str,
    seed: int,
    budget: str,
    limits: Mapping[str, float] | None = None,
    epsilon: float | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Row:
    """Play every episode once and average.

    Args:
        env: of the test split.
        policy: fitted already.
        env_name, seed, budget: for the row.
        limits: of the mean use of an episode, by the names of `RESOURCES`.
        epsilon: hard budget of the risk of all episodes together, composed; None is none.
        report: told (episodes done, episodes).
    """
    account = None if epsilon is None else EpsilonAccount(epsilon)
    played = []
    for episode in range(env.episodes):
        played.append(run_episode(env, policy, episode, account))
        report(episode + 1, env.episodes)
    used = np.mean([episode.used for episode in played], axis=0)
    turns = sum(len(episode.rewards) for episode in played)
    return Row(
        env=env_name,
        policy=policy.name,
        seed=seed,
        budget=budget,
        reward=float(np.mean([np.mean(episode.rewards) for episode in played])),
        quality=float(np.mean([np.mean(episode.qualities) for episode in played])),
        latency_s=float(used[LATENCY]),
        usd=float(used[USD]),
        energy_j=float(used[ENERGY]),
        leakage=float(used[RISK]),
        violations=float(np.mean([episode.over_budget for episode in played])),
        overruled=sum(episode.overruled for episode in played) / turns,
        episodes=len(played),
        limit_errors={
            name: float(used[RESOURCES.index(name)]) / limit - 1
            for name, limit in (limits or {}).items()
        },
        epsilon=composed([risk for episode in played for risk in episode.risks]),
        decision_ms=_decision_ms([one for episode in played for one in episode.decided_s]),
    )


def _decision_ms(taken_s: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Percentiles of decisions' CPU time and time by the clock, [decisions, 2]."""
    (cpu, clock), (cpu_p99, clock_p99) = np.percentile(taken_s, [50, 99], axis=0) * 1e3
    named = {"p50": cpu, "p99": cpu_p99, "wall_p50": clock, "wall_p99": clock_p99}
    return {name: float(value) for name, value in named.items()}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's 95 % interval over seeds.

    One value has no spread: low and high are then the value itself.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half
