"""`ptmo offload eval`: rows as promised, the same ones twice, and errors of one line."""

import json

import pytest

from ptmo_secure import cli
from ptmo_secure.offload.compare import parse_budgets, summarise
from ptmo_secure.offload.evaluate import Row

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
    assert json.loads(run(capsys, *wanted)[1])["results"] == rows


def test_m4a1_runs_on_the_synthetic_conversations_and_says_where_the_real_ones_are(capsys):
    code, out, err = run(
        capsys,
        *("offload", "eval", "--env", "m4a1", "--policies", "local-only,greedy"),
        *("--budgets", "30:0.05,6:0.006", "--json"),
    )
    rows = json.loads(out)["results"]
    assert code == 0 and {row["env"] for row in rows} == {"m4a1"}
    assert [row["budget"] for row in rows] == ["30:0.05", "6:0.006"] * 2
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
        (["--sessions", "0"], "--sessions 0"),
        (["--budgets", "0.5"], "budget '0.5'"),
        (["--budgets", "0.5:-1"], "budget '0.5:-1'"),
        (["--budgets", "0.5:nan"], "budget '0.5:nan'"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--env", "routing", "--table", "synthetic", "--policies", "zork"], "unknown router"),
    ],
)
def test_a_mistake_is_named_in_one_line(capsys, arguments, words):
    code, out, err = run(capsys, "offload", "eval", *arguments, "--json")
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1


def test_a_data_folder_without_the_table_says_how_to_get_it(capsys, tmp_path):
    code, _, err = run(capsys, "offload", "eval", "--data", str(tmp_path), "--policies", "random")
    assert code == 2 and "ulab-uiuc/LLMRouter" in err


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
