"""Many policies, seeds and budgets in one environment, and what they come to together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload import outcomes, synthetic
from ptmo_secure.offload.account import EpsilonAccount
from ptmo_secure.offload.envs import m4a1, m4a1_device, sessions
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.evaluate import Row, evaluate, mean_interval
from ptmo_secure.offload.kept import KeptRows
from ptmo_secure.offload.outcomes import OutcomeTable
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.policies.learned import Learned
from ptmo_secure.offload.rl.lagrangian import limits_of

ENVIRONMENTS = ("m4a1", "m4a1-device", "sessions")
SYNTHETIC = "synthetic"
_BUDGETS: dict[str, tuple[tuple[float, ...], ...]] = {
    "m4a1": m4a1.BUDGETS,
    "m4a1-device": (m4a1_device.BUDGET,),
    "sessions": sessions.BUDGETS,
}
_PARTS = {"m4a1": "seconds:dollars", "m4a1-device": "seconds:dollars:risk"}
_PARTS["sessions"] = "share of all-cloud dollars:risk"

Budget = tuple[float, ...]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared.

    Args:
        env: one of `ENVIRONMENTS`.
        policies: names, see `POLICIES`.
        seeds: of the splits and of the policies.
        budgets: see `parse_budgets`.
        table: of the sessions: one of `outcomes.TABLES`, or "synthetic".
        sessions: in each split.
        trained: folder of trained policies; those that are not there are trained.
        limits: of the mean use of an episode, by the names of `RESOURCES`. The learners hold them;
            the other policies are only compared with them.
        epsilon: hard budget of the risk of all test episodes together, composed, for every policy
            that keeps budgets; None is none.

    Raises:
        InputError: see `check_limits`; `trained` is no folder; or epsilon is not finite and above
            0.
    """

    env: str
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    table: str = outcomes.TABLES[0]
    sessions: int = 200
    trained: Path | None = None
    limits: dict[str, float] = field(default_factory=dict)
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.trained is not None and not self.trained.is_dir():
            raise InputError(f"{self.trained}: no folder of trained policies")
        if self.epsilon is not None:
            EpsilonAccount(self.epsilon)
        check_limits(self.env, {**self.limits, **({} if self.epsilon is None else {"risk": 1.0})})

    def run(self, folder: Path | None, report: Report, kept: KeptRows | None = None) -> list[Row]:
        """Play everything; a policy is fitted once a seed, and tuned once a budget.

        Args:
            folder: of the outcome tables; without one the synthetic table stands in.
            report: told (rows done, rows, what runs).
            kept: rows measured before, which are not measured again, and those of now.
        """
        rows: list[Row] = []
        total = len(self.seeds) * len(self.budgets) * len(self.policies)
        make = environments(self.env, self.table, self.sessions, folder)
        for seed in self.seeds:
            before = {name: kept.of(name, seed) if kept else [] for name in self.policies}
            if not all(before.values()):
                train, test = make("train", seed), make("test", seed)
            for name in self.policies:
                report(len(rows), total, f"{name}, seed {seed}")
                if before[name]:
                    rows += before[name]
                    continue
                policy = make_policy(name, seed)
                if isinstance(policy, Learned):
                    self._prepare(policy, seed)
                    if not policy.trained:
                        report(len(rows), total, f"{name}, seed {seed}: trains first")
                policy.fit(train)
                for budget in self.budgets:
                    for env in (train, test):
                        env.set_budget(budget)
                    policy.tune(train)
                    text = ":".join(f"{part:g}" for part in budget)
                    rows.append(
                        evaluate(test, policy, self.env, seed, text, self.limits, self.epsilon)
                    )
                    report(len(rows), total, f"{name}, seed {seed}")
                if kept:
                    trace = policy.trace if isinstance(policy, Learned) else []
                    kept.keep(rows[-len(self.budgets) :], trace)
        return rows

    def _prepare(self, policy: Learned, seed: int) -> None:
        """Give a learner its limits, and the network trained for this environment and seed."""
        policy.hold(self.limits)
        if self.trained is not None:
            path = self.trained / f"{self.env}-{policy.name}-{seed}.npz"
            if path.is_file():
                policy.recall(path)


def environments(
    env: str, table: str, sessions: int, folder: Path | None
) -> Callable[[str, int], OffloadEnv]:
    """Return what makes the environment of a split and a seed; reads the data once.

    Args:
        env: one of `ENVIRONMENTS`.
        table, sessions: of the sessions environment.
        folder: of the outcome tables; without one the synthetic table stands in.

    Raises:
        InputError: there is no such environment, or the data is missing or damaged.
    """
    if env == "sessions":
        read = read_table(table, folder)
        config = SessionConfig(sessions=sessions)
        return lambda split, seed: SessionsEnv(read, split, seed, config=config)
    if env not in ENVIRONMENTS:
        raise InputError(f"unknown environment {env!r}: expected one of {', '.join(ENVIRONMENTS)}")
    talks = synthetic.conversations() if folder is None else outcomes.load_m4a1(folder)
    kind = m4a1.M4A1Env if env == "m4a1" else m4a1_device.M4A1DeviceEnv
    return lambda split, seed: kind(talks, split, seed)


def read_table(name: str, folder: Path | None) -> OutcomeTable:
    """Return a table of questions; the synthetic one by its name, and where there is no folder."""
    if name == SYNTHETIC or folder is None:
        return synthetic.question_table()
    return outcomes.load_table(name, folder)


def check_limits(env: str, limits: Mapping[str, float]) -> None:
    """Refuse limits that say nothing.

    Raises:
        InputError: no such resource, no finite number above 0, or risk in M4A1 as released, which
            counts none.
    """
    limits_of(limits)
    if env == "m4a1" and "risk" in limits:
        raise InputError("m4a1 counts no risk that could be limited: m4a1-device and sessions do")


def parse_budgets(env: str, text: str | None) -> tuple[Budget, ...]:
    """Return the budgets of an environment: "30:0.05,20:0.03", or its own ones; inf is none.

    Raises:
        InputError: the environment is unknown, or a budget has not as many numbers as it needs.
    """
    if env not in ENVIRONMENTS:
        raise InputError(f"unknown environment {env!r}: expected one of {', '.join(ENVIRONMENTS)}")
    if text is None:
        return _BUDGETS[env]
    budgets = []
    for word in text.split(","):
        try:
            parts = tuple(float(part) for part in word.split(":"))
        except ValueError:
            parts = ()
        if len(parts) != len(_BUDGETS[env][0]) or not all(part >= 0 for part in parts):
            raise InputError(f"budget {word!r} is not {_PARTS[env]}, numbers of at least 0")
        budgets.append(parts)
    return tuple(budgets)


def listed(budgets: Sequence[Budget]) -> list[list[float | None]]:
    """Return budgets as JSON has them: null in place of infinity, which is none."""
    return [[part if np.isfinite(part) else None for part in budget] for budget in budgets]


@dataclass(frozen=True, slots=True)
class Summary:
    """A policy at a budget, over the seeds.

    Args:
        policy, budget, seeds: what ran, and how often.
        reward: mean, and the ends of its 95 % interval.
        quality, usd, latency_s, leakage: means.
        violations: the worst seed's share of episodes over a budget.
        gain_share: (policy - random) / (constrained oracle - random) in mean reward; None where
            one of the two did not run.
        limit_errors: of each limited mean the seed's that is farthest from its limit, relative.
        epsilon: the worst seed's.
        decision_ms: the worst seed's percentiles, see `Row`; empty where nothing decided.
    """

    policy: str
    budget: str
    seeds: int
    reward: tuple[float, float, float]
    quality: float
    usd: float
    latency_s: float
    leakage: float
    violations: float
    gain_share: float | None
    limit_errors: dict[str, float]
    epsilon: float = 0.0
    decision_ms: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The summary as a JSON object."""
        return {
            "policy": self.policy,
            "budget": self.budget,
            "seeds": self.seeds,
            "reward": self.reward[0],
            "reward_ci95": list(self.reward[1:]),
            "quality": self.quality,
            "usd": self.usd,
            "latency_s": self.latency_s,
            "leakage": self.leakage,
            "violations": self.violations,
            "gain_share": self.gain_share,
            "limit_errors": self.limit_errors,
            "epsilon": self.epsilon,
            "decision_ms": self.decision_ms,
        }


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Average the rows over the seeds, in the order in which policies and budgets first come."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.budget, row.policy), []).append(row)
    rewards = {key: float(np.mean([row.reward for row in group])) for key, group in found.items()}
    summaries = []
    order = list(dict.fromkeys(row.budget for row in rows))
    for (budget, policy), group in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        low, high = (rewards.get((budget, name)) for name in ("random", "constrained-oracle"))
        share = None
        if low is not None and high is not None and high > low:
            share = (rewards[budget, policy] - low) / (high - low)
        summaries.append(
            Summary(
                policy=policy,
                budget=budget,
                seeds=len(group),
                reward=mean_interval([row.reward for row in group]),
                quality=float(np.mean([row.quality for row in group])),
                usd=float(np.mean([row.usd for row in group])),
                latency_s=float(np.mean([row.latency_s for row in group])),
                leakage=float(np.mean([row.leakage for row in group])),
                violations=max(row.violations for row in group),
                gain_share=share,
                limit_errors={
                    name: max((row.limit_errors[name] for row in group), key=abs)
                    for name in group[0].limit_errors
                },
                epsilon=max(row.epsilon for row in group),
                decision_ms={
                    name: max(row.decision_ms[name] for row in group)
                    for name in group[0].decision_ms
                },
            )
        )
    return summaries
