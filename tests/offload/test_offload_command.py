"""`ptmo offload eval`: rows as promised, the same ones twice, and errors of one line."""

import json

import pytest

from ptmo_secure import cli
from ptmo_secure.offload.compare import parse_budgets, summarise
from ptmo_secure.offload.evaluate import Row
from ptmo_secure.offload.policies import POLICIES, chosen

KEYS = {"env", "policy", "seed", "budget", "reward", "quality", "latency_s", "usd"}
KEYS |= {"leakage", "violations"}
SMALL = ("offload", "eval", "--table", "synthetic", "--sessions", "8", "--json")


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("PTMO_DATA", raising=False)


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def row(policy, reward, seed=1, budget="1"):
    return Row("e", policy, seed, budget, reward, 0.5, 1.0, 0.1, 5.0, 0.0, 0.0, 0.0, 10)


def test_the_rows_are_as_promised_and_the_same_twice(capsys):
    wanted = (*SMALL, "--policies", "random,greedy,constrained-oracle", "--seeds", "2")
    wanted += ("--budgets", "0.25:0.1,0.5:0.1")
    code, out, err = run(capsys, *wanted)
    result = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and err == ""
    rows = result["results"]
    assert len(rows) == 3 * 2 * 2
    assert all(set(row) >= KEYS for row in rows)
    assert {row["seed"] for row in rows} == {1, 2}
    assert {row["budget"] for row in rows} == {"0.25:0.1", "0.5:0.1"}
    assert all(row["violations"] == 0 for row in rows)
    assert len(result["summary"]) == 6
    assert all(0 < row["decision_ms"]["p50"] <= row["decision_ms"]["p99"] for row in rows)
    again = json.loads(run(capsys, *wanted)[1])["results"]
    for row in [*rows, *again]:
        del row["decision_ms"]  # the clock's, and never the same twice
    assert again == rows


def test_rows_that_a_stopped_evaluation_kept_are_taken_up(capsys, tmp_path):
    path = tmp_path / "rows.jsonl"
    wanted = (*SMALL, "--policies", "random,greedy", "--budgets", "0.5:0.1", "--keep", str(path))
    first = json.loads(run(capsys, *wanted)[1])["results"]
    kept = path.read_text().replace(f'"reward": {first[1]["reward"]}', '"reward": 7.0')
    path.write_text(kept)  # what stands there now can only come from the file
    again = json.loads(run(capsys, *wanted)[1])["results"]
    assert again == [first[0], {**first[1], "reward": 7.0}]


def test_every_policys_mean_use_is_compared_with_the_limits(capsys):
    wanted = (*SMALL, "--policies", "local-only,greedy", "--budgets", "0.5:0.1")
    wanted += ("--limit", "usd=0.0001", "--limit", "latency_s=20")
    result = json.loads(run(capsys, *wanted)[1])
    for row in result["results"]:
        errors = {"usd": row["usd"] / 0.0001 - 1, "latency_s": row["latency_s"] / 20 - 1}
        assert row["limit_errors"] == pytest.approx(errors)
    assert result["results"][0]["limit_errors"]["usd"] == -1  # local-only pays nothing
    assert result["config"]["limits"] == {"usd": 0.0001, "latency_s": 20.0}
    code, out, _ = run(capsys, *(word for word in wanted if word != "--json"))
    assert code == 0 and "-100.0 %" in out


def test_eps_bounds_what_all_sessions_disclose_together(capsys):
    wanted = (*SMALL, "--policies", "cloud-only,rl", "--budgets", "1:0.1")
    free = json.loads(run(capsys, *wanted)[1])["results"]
    assert all(row["epsilon"] > 0.02 for row in free)
    held = json.loads(run(capsys, *wanted, "--eps", "0.02")[1])
    assert held["config"]["eps"] == 0.02
    assert all(0 < row["epsilon"] <= 0.02 for row in held["results"])
    code, out, _ = run(capsys, *(word for word in wanted if word != "--json"), "--eps", "0.02")
    assert code == 0 and "eps" in out


def test_m4a1_runs_on_the_synthetic_conversations_and_says_where_the_real_ones_are(capsys):
    code, out, err = run(
        capsys,
        *("offload", "eval", "--env", "m4a1", "--policies", "local-only,greedy"),
        *("--budgets", "30:0.05,6:inf", "--json"),
    )
    rows = json.loads(out)["results"]
    assert json.loads(out)["config"]["budgets"] == [[30.0, 0.05], [6.0, None]]
    assert code == 0 and {row["env"] for row in rows} == {"m4a1"}
    assert [row["budget"] for row in rows] == ["30:0.05", "6:inf"] * 2
    assert "liangqiyuan/TMO" in err and err.count("\n") == 1


def test_routing_gives_apgr_for_both_splits(capsys):
    code, out, _ = run(
        capsys,
        *("offload", "eval", "--env", "routing", "--table", "synthetic"),
        *("--policies", "random,oracle", "--json"),
    )
    rows = json.loads(out)["results"]
    assert code == 0 and {row["split"] for row in rows} == {"questions", "domains"}
    assert all(row["apgr"] > 1 for row in rows if row["router"] == "oracle")


def test_without_json_there_is_a_table(capsys):
    code, out, _ = run(capsys, *SMALL[:-1], "--policies", "random,constrained-oracle")
    assert code == 0 and "oracle gain" in out and "100 %" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "nowhere"], "unknown environment 'nowhere'"),
        (["--policies", "zork"], "unknown policy 'zork'"),
        (["--table", "zork"], "unknown table 'zork'"),
        (["--seeds", "0"], "--seeds 0"),
        (["--eps", "0"], "--eps 0"),
        (["--eps", "nan"], "--eps nan"),
        (["--eps", "-1"], "--eps -1"),
        (["--env", "m4a1", "--eps", "1"], "m4a1 counts no risk"),
        (["--env", "m4a1", "--limit", "risk=0.1"], "m4a1 counts no risk"),
        (
            ["--env", "routing", "--table", "synthetic", "--eps", "1"],
            "--eps: routing has no episodes",
        ),
        (["--limit", "risk=inf"], "limit risk=inf"),
        (["--limit", "risk=0.1", "--limit", "risk=0.2"], "risk has a limit already, 0.1"),
        (["--sessions", "0"], "--sessions 0"),
        (["--budgets", "0.5"], "budget '0.5'"),
        (["--budgets", "0.5:-1"], "budget '0.5:-1'"),
        (["--budgets", "0.5:nan"], "budget '0.5:nan'"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--env", "routing", "--table", "synthetic", "--policies", "zork"], "unknown router"),
        (["--env", "routing", "--limit", "usd=1"], "--limit: routing has no episodes"),
        (["--env", "m4a1", "--policies", "greedy,rl"], "rl plays sessions alone, not m4a1"),
        (["--limit", "usd"], "--limit 'usd' is not NAME=X"),
        (["--limit", "leaks=1"], "limit leaks=1: one of latency_s, usd, energy_j, risk"),
        (["--limit", "usd=nan"], "limit usd=nan"),
    ],
)
def test_a_mistake_is_named_in_one_line(capsys, arguments, words):
    code, out, err = run(capsys, "offload", "eval", *arguments, "--json")
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1


def test_a_data_folder_without_the_table_says_how_to_get_it(capsys, tmp_path):
    code, _, err = run(capsys, "offload", "eval", "--data", str(tmp_path), "--policies", "random")
    assert code == 2 and "ulab-uiuc/LLMRouter" in err


def test_all_policies_are_those_that_can_play_the_environment():
    assert chosen("all", "sessions") == POLICIES and {"rc-ppo", "tmo-dqn", "rl"} < set(POLICIES)
    assert chosen("all", "m4a1") == tuple(name for name in POLICIES if name != "rl")


def test_budgets_are_the_environments_own_unless_given():
    assert parse_budgets("m4a1", None)[0] == (30.0, 0.05)
    assert parse_budgets("m4a1", "inf:0.05") == ((float("inf"), 0.05),)


def test_the_gain_share_is_measured_from_chance_to_the_oracle():
    rows = [row("random", 1.0), row("constrained-oracle", 3.0), row("greedy", 2.5)]
    shares = {s.policy: s.gain_share for s in summarise(rows)}
    assert shares == {"random": 0.0, "constrained-oracle": 1.0, "greedy": 0.75}
    assert summarise(rows[2:])[0].gain_share is None


def test_a_summary_shows_the_worst_seeds_violations():
    import dataclasses

    rows = [row("greedy", 1.0), dataclasses.replace(row("greedy", 2.0, 2), violations=0.3)]
    (summary,) = summarise(rows)
    assert summary.violations == 0.3 and summary.reward[0] == 1.5


def test_a_summary_shows_the_mean_that_is_farthest_from_its_limit():
    import dataclasses

    errors = (0.01, -0.04, 0.02)
    rows = [
        dataclasses.replace(row("greedy", 1.0, seed), limit_errors={"usd": error})
        for seed, error in enumerate(errors)
    ]
    assert summarise(rows)[0].limit_errors == {"usd": -0.04}
