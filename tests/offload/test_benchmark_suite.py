"""The benchmark suite runs as its users write it, and counts what an unprotected cloud reads."""

import pytest

from ptmo_secure import BenchmarkConfig, BenchmarkSuite
from ptmo_secure.errors import InputError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.benchmark import unprotected
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("PTMO_DATA", raising=False)


def test_it_runs_as_in_the_readme():
    suite = BenchmarkSuite(BenchmarkConfig(num_episodes=30, privacy_budgets=[0.3, 0.5, 0.7, 1.0]))
    results = suite.run_benchmark()
    policies = {row["policy"] for row in results}
    assert {"no-protection", "local-only", "threshold", "rl"} <= policies
    assert len(results) == 4 * len(policies)
    by_key = {(row["policy"], row["budget"]): row for row in results}
    assert by_key["local-only", "0.3"]["leakage"] == 0
    assert by_key["no-protection", "0.3"]["violations"] > 0.2
    assert all(row["violations"] == 0 for row in results if row["policy"] != "no-protection")
    report = suite.generate_report()
    assert report.count("\n| ") == len(results) + 2 and "| no-protection |" in report


def test_a_smaller_eps_forbids_what_a_larger_one_allows():
    config = BenchmarkConfig(
        num_episodes=60, privacy_budgets=[0.1, 0.3, 1.0], policies=["greedy"], dollars=1.0
    )
    rows = BenchmarkSuite(config).run_benchmark()
    assert rows[0]["usd"] < 0.7 * rows[1]["usd"] < 0.9 * rows[2]["usd"]
    assert rows[0]["reward"] < rows[1]["reward"] < rows[2]["reward"]
    for row, epsilon in zip(rows, config.privacy_budgets, strict=True):
        assert 0 < row["leakage"] <= epsilon / 10 and row["violations"] == 0


def test_a_report_runs_what_was_not_run():
    config = BenchmarkConfig(num_episodes=3, privacy_budgets=[0.5], policies=["local-only"])
    assert "| local-only |" in BenchmarkSuite(config).generate_report()


def test_without_protection_every_private_value_is_read():
    env = SessionsEnv(
        synthetic.question_table(120), "test", 3, (9.0, 9.0), SessionConfig(sessions=20)
    )
    row = unprotected(env, 3, "9")
    values = turns = 0
    for session in env.sessions:
        for turn in session:
            turns += 1
            values += turn.values.bit_count()
            values += sum(max(1, p.values) for p in turn.pieces if p.level.value == "PRIVATE")
    assert row.leakage == pytest.approx((values + 0.01 * turns) / 20)
    assert row.quality == pytest.approx(
        sum(sum(t.scores[1] for t in s) / len(s) for s in env.sessions) / 20
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"num_episodes": 0},
        {"privacy_budgets": []},
        {"privacy_budgets": [-1.0]},
        {"dollars": float("nan")},
        {"sessions_per_budget": 0},
        {"policies": ["zork"]},
    ],
)
def test_a_bad_configuration_is_refused(fields):
    with pytest.raises(InputError):
        BenchmarkConfig(**fields)
