"""Privacy budgets against quality, in one call.

from ptmo_secure import BenchmarkConfig, BenchmarkSuite

suite = BenchmarkSuite(BenchmarkConfig(num_episodes=100, privacy_budgets=[0.3, 0.5, 0.7, 1.0]))
results = suite.run_benchmark()
print(suite.generate_report())
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.account import composed
from ptmo_secure.offload.actions import ENERGY, LATENCY, RISK, USD
from ptmo_secure.offload.compare import read_table
from ptmo_secure.offload.envs import session_model
from ptmo_secure.offload.envs.session_model import CLOUD, Past
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.evaluate import Row, evaluate
from ptmo_secure.offload.outcomes import TABLES, data_folder
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.types import Level

UNPROTECTED = "no-protection"
POLICIES = (UNPROTECTED, "local-only", "threshold", "rule", "greedy", "rl")


@dataclass(frozen=True, slots=True)
class BenchmarkConfig:
    """What is compared.

    Args:
        num_episodes: sessions that are played at each budget.
        privacy_budgets: eps: expected private values that may leave readable in
            `sessions_per_budget` sessions, which share it evenly.
        sessions_per_budget: sessions of one eps. What the gate lets out at all comes to less than
            0.15 a session, so 0.3 for each alone would forbid nothing.
        policies: names of policies, and "no-protection": every turn to the cloud as it was typed.
        dollars: budget of a session, as a share of what an all-cloud one costs.
        seed: of the split and the sessions.
        data: folder of the outcome tables; None takes PTMO_DATA, and without it a synthetic table.
        table: of questions.
    """

    num_episodes: int = 100
    privacy_budgets: Sequence[float] = (0.3, 0.5, 0.7, 1.0)
    sessions_per_budget: int = 10
    policies: Sequence[str] = POLICIES
    dollars: float = 0.5
    seed: int = 1
    data: str | Path | None = None
    table: str = TABLES[0]

    def __post_init__(self) -> None:
        if self.num_episodes < 1:
            raise InputError(f"num_episodes is {self.num_episodes}: at least one")
        if not self.privacy_budgets or not all(budget >= 0 for budget in self.privacy_budgets):
            raise InputError(f"privacy_budgets {list(self.privacy_budgets)}: numbers of at least 0")
        if self.sessions_per_budget < 1:
            raise InputError(f"sessions_per_budget is {self.sessions_per_budget}: at least one")
        if not self.dollars >= 0:
            raise InputError(f"dollars is {self.dollars}: at least 0")
        for name in self.policies:
            if name != UNPROTECTED:
                make_policy(name, 0)


@dataclass(slots=True)
class BenchmarkSuite:
    """Plays the policies at each privacy budget.

    Args:
        config: what is compared.
    """

    config: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    _rows: list[Row] = field(init=False, default_factory=list)
    _table: str = field(init=False, default="")

    def run_benchmark(self) -> list[dict[str, object]]:
        """Play, and return one row for each policy and budget.

        Returns:
            Rows with env, policy, seed, budget, reward, quality, latency_s, usd, energy_j, leakage,
            violations, overruled and episodes; `violations` is the share of sessions over a budget.
        """
        config = self.config
        folder = data_folder(None if config.data is None else Path(config.data))
        table = read_table(config.table, folder)
        size = SessionConfig(sessions=config.num_episodes)
        train = SessionsEnv(table, "train", config.seed, config=size)
        test = SessionsEnv(table, "test", config.seed, config=size)
        self._rows, self._table = [], table.name
        for name in config.policies:
            policy = None if name == UNPROTECTED else make_policy(name, config.seed)
            if policy is not None:
                policy.fit(train)
            for epsilon in config.privacy_budgets:
                for env in (train, test):
                    env.set_budget((config.dollars, epsilon / config.sessions_per_budget))
                if policy is None:
                    self._rows.append(unprotected(test, config.seed, f"{epsilon:g}"))
                else:
                    policy.tune(train)
                    row = evaluate(test, policy, "sessions", config.seed, f"{epsilon:g}")
                    self._rows.append(row)
        return [row.as_json() for row in self._rows]

    def generate_report(self) -> str:
        """Return a table in Markdown of what `run_benchmark` measured; runs it where it did not."""
        if not self._rows:
            self.run_benchmark()
        lines = [
            f"Sessions on the table {self._table}, seed {self.config.seed}, "
            f"{self.config.num_episodes} sessions, dollars {self.config.dollars:g} of all-cloud; "
            f"{self.config.sessions_per_budget} sessions share one eps.",
            "",
            "| eps | policy | reward | quality | seconds | dollars | leaked values | over budget |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in self._rows:
            lines.append(
                f"| {row.budget} | {row.policy} | {row.reward:.4f} | {row.quality:.4f} "
                f"| {row.latency_s:.2f} | {row.usd:.5f} | {row.leakage:.3f} "
                f"| {100 * row.violations:.0f} % |"
            )
        return "\n".join(lines)


def unprotected(env: SessionsEnv, seed: int, budget: str) -> Row:
    """Work out what sending every turn as it was typed would give; nothing is sent.

    Leakage counts each private value that a cloud would read, a PRIVATE piece as one at least.
    The environment itself refuses to do this, so it is computed from the sessions.
    """
    rewards, qualities, used, over, risks = [], [], [], [], []
    for episode, turns in enumerate(env.sessions):
        env.reset(options={"episode": episode})
        states, past = env.start(), Past()
        spent, reward, quality = np.zeros(4), [], []
        for turn in turns:
            cost = env.world.costs(turn, past, states, doubted=True)
            secrets = sum(max(1, p.values) for p in turn.pieces if p.level is Level.PRIVATE)
            cost[:, CLOUD, RISK] += secrets
            scored = float(turn.scores[1])
            quality.append(scored)
            reward.append(env.weights.alpha * scored + float(env.known(cost[0])[CLOUD]))
            spent += cost[0, CLOUD]
            risks.append(float(cost[0, CLOUD, RISK]))
            states = session_model.advance(turn, past, states, CLOUD, cost[:, CLOUD])
            past = Past(past.tokens + turn.prompt + turn.answer, past.tokens, past.pieces)
        rewards.append(np.mean(reward))
        qualities.append(np.mean(quality))
        used.append(spent)
        over.append(bool((spent > env.limits + 1e-9).any()))
    mean = np.mean(used, axis=0)
    return Row(
        env="sessions",
        policy=UNPROTECTED,
        seed=seed,
        budget=budget,
        reward=float(np.mean(rewards)),
        quality=float(np.mean(qualities)),
        latency_s=float(mean[LATENCY]),
        usd=float(mean[USD]),
        energy_j=float(mean[ENERGY]),
        leakage=float(mean[RISK]),
        violations=float(np.mean(over)),
        overruled=0.0,
        episodes=len(rewards),
        epsilon=composed(risks),
    )
