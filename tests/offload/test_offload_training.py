"""`ptmo offload train`, `report`, `calibrate`: files as promised, resumed work, one-line errors."""

import json
import re
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from ptmo_secure import cli
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.evaluate import Row
from ptmo_secure.offload.report import paired

pytest.importorskip("stable_baselines3", reason="needs the extra [rl]")
pytest.importorskip("sb3_contrib", reason="needs the extra [rl]")

from stable_baselines3 import PPO

from ptmo_secure.errors import InputError
from ptmo_secure.offload.envs.m4a1 import M4A1Env
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies.learned import RcDqnPolicy
from ptmo_secure.offload.policies.tmo import TmoPpo
from ptmo_secure.offload.rl import training
from ptmo_secure.offload.rl.advice import Lookahead, Myopic
from ptmo_secure.offload.rl.lagrangian import limits_of
from ptmo_secure.offload.rl.network import load_network
from ptmo_secure.offload.rl.training import Plan, train
from ptmo_secure.offload.rollout import run_episode

SMALL = ("--table", "synthetic", "--sessions", "6", "--steps", "300")


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("PTMO_DATA", raising=False)


def run(capsys, *arguments):
    code = cli.main(["offload", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_train_writes_a_policy_that_eval_takes_up(capsys, tmp_path):
    wanted = ("--algo", "rc-dqn", "--seeds", "2", "--out", str(tmp_path), "--json")
    code, out, _ = run(capsys, "train", *SMALL, *wanted)
    rows = json.loads(out)["results"]
    assert code == 0 and [row["seed"] for row in rows] == [1, 2]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"sessions-rc-dqn-1.npz", "sessions-rc-dqn-1.ckpt", "sessions-rc-dqn-1.json"} <= names
    assert "sessions-rc-dqn-1-words.npz" in names
    network = load_network(tmp_path / "sessions-rc-dqn-1.npz")
    assert network.card["steps"] == 300 and "ptmo offload train" in network.card["command"]
    code, out, _ = run(
        capsys,
        *("eval", "--table", "synthetic", "--sessions", "6", "--policies", "rc-dqn"),
        *("--trained", str(tmp_path), "--seeds", "2", "--json"),
    )
    assert code == 0 and all(row["violations"] == 0 for row in json.loads(out)["results"])


def test_a_policy_is_trained_for_the_budgets_that_are_given(capsys, tmp_path):
    wanted = ("--steps", "120", "--out", str(tmp_path), "--budgets", "0.5:0,inf:0.1", "--json")
    code, out, err = run(capsys, "train", *SMALL, *wanted)
    assert code == 0, err
    assert json.loads(out)["config"]["budgets"] == [[0.5, 0.0], [None, 0.1]]
    card = load_network(next(tmp_path.glob("*-1.npz"))).card
    assert card["budgets"] == [[0.5, 0.0], [np.inf, 0.1]]


def test_a_policy_of_another_seed_is_not_taken_for_this_one(tmp_path):
    env = M4A1Env(synthetic.conversations(), "train", 1)
    path = tmp_path / "policy.npz"
    train(env, Myopic(), Plan("rc-dqn", 1, 150)).network.save(path)
    RcDqnPolicy(1).recall(path)
    with pytest.raises(InputError, match="seed 2"):
        RcDqnPolicy(2).recall(path)


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    env = M4A1Env(synthetic.conversations(), "train", 1)
    plan, path = Plan("rc-a2c", 4, 600), tmp_path / "a.ckpt"
    told = []

    def killed(done, total):
        told.append(done)
        if done >= 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(env, Myopic(), plan, killed, path)
    assert path.exists() and told[0] == 100
    told.clear()
    train(env, Myopic(), plan, lambda done, total: told.append(done), path)
    assert min(told) > 300 and told[-1] == 600
    with pytest.raises(InputError, match=r"not the same seed\): delete it"):
        train(env, Myopic(), Plan("rc-a2c", 5, 600), checkpoint=path)
    with pytest.raises(InputError, match=r"not the same table\)"):
        train(env, Myopic(), replace(plan, about={"table": "mmlu"}), checkpoint=path)
    path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="not a checkpoint"):
        train(env, Myopic(), plan, checkpoint=path)


@pytest.mark.parametrize("algo", ["rc-a2c", "rc-dqn"])
def test_a_training_that_is_done_gives_its_best_network_again(tmp_path, algo):
    env = M4A1Env(synthetic.conversations(), "train", 1)
    path, told = tmp_path / "a.ckpt", []
    plan = Plan(algo, 4, 600)
    first = train(env, Lookahead(env), plan, checkpoint=path)
    again = train(env, Lookahead(env), plan, lambda done, total: told.append(done), path)
    assert told == [] and again.trials == first.trials and len(first.trials) > 3
    pairs = zip(
        [*first.network.layers, first.network.head],
        [*again.network.layers, again.network.head],
        strict=True,
    )
    for one, other in pairs:
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert first.trials.index(max(first.trials)) < len(first.trials) - 1  # not the last one


def test_the_same_seed_trains_the_same_policy():
    env = M4A1Env(synthetic.conversations(), "train", 1)
    first, second = (train(env, Lookahead(env), Plan("rc-ppo", 3, 600)).network for _ in range(2))
    assert np.array_equal(first.head[0], second.head[0])


def test_a_limit_of_an_average_is_held_while_hard_budgets_are_kept():
    table = synthetic.question_table(200)
    config = SessionConfig(sessions=60)
    school = SessionsEnv(table, "train", 1, (1.0, 0.2), config)
    limit = 0.3 * school.all_cloud_usd
    policy = RcDqnPolicy(1, steps=1500, limits={"usd": limit})
    policy.fit(school)
    test = SessionsEnv(table, "test", 1, (1.0, 0.2), config)
    used = []
    for number in range(900):
        episode = run_episode(test, policy, number % test.episodes)
        assert not episode.over_budget
        used.append(episode.used[1])
    assert np.mean(used[300:]) == pytest.approx(limit, rel=0.03)


def test_eval_holds_the_limit_that_it_is_given_with_networks_that_know_a_price(capsys, tmp_path):
    table = ("--table", "synthetic", "--sessions", "60")
    wanted = ("--algo", "rc-dqn", "--steps", "1500", "--out", str(tmp_path))
    code, _, err = run(capsys, "train", *table, *wanted, "--limit", "usd=0.001")
    assert code == 0, err
    asked = (
        "eval",
        "--table",
        "synthetic",
        "--sessions",
        "300",
        "--policies",
        "greedy,rc-dqn",
        "--budgets",
        "1:0.2",
        "--json",
    )
    asked += ("--trained", str(tmp_path))
    code, out, err = run(capsys, *asked, "--limit", "usd=0.0006")
    greedy, held = json.loads(out)["results"]
    assert code == 0 and greedy["limit_errors"]["usd"] > 0.3  # nothing else would keep it
    assert abs(held["limit_errors"]["usd"]) < 0.06 and held["violations"] == 0
    code, out, err = run(capsys, *asked, "--limit", "risk=0.01")
    assert (code, out) == (2, "") and "trained without a limit of risk" in err


def test_report_writes_tables_plots_and_json(capsys, tmp_path):
    policies = tmp_path / "policies"
    wanted = ("--seeds", "2", "--limit", "usd=0.001", "--out", str(policies))
    run(capsys, "train", *SMALL, *wanted)
    code, out, _ = run(
        capsys,
        *("report", "--envs", "sessions", "--policies", "random,greedy,rc-ppo", "--seeds", "2"),
        *("--table", "synthetic", "--sessions", "6", "--trained", str(policies)),
        *("--out", str(tmp_path / "report"), "--json"),
    )
    result = json.loads(out)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert code == 0 and len(result["files"]) == len(names - {"rows-sessions.jsonl"})
    assert {"report.json", "report.md", "pareto-sessions-usd.png"} <= names
    assert "multipliers-sessions-rc-ppo-1.png" in names
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {test["policy"] for test in content["paired"]["sessions"]} == {"random", "rc-ppo"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert len(re.findall(r"^\| 0\.25:0\.1 \| ", text, re.MULTILINE)) == 3
    assert (tmp_path / "report" / "pareto-sessions-usd.png").read_bytes()[:4] == b"\x89PNG"


def test_report_trains_what_is_not_trained_and_says_on_which_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS", 1500)
    wanted = ("report", "--envs", "sessions", "--policies", "greedy,rc-dqn", "--seeds", "2")
    wanted += ("--sessions", "30", "--limit", "usd=0.001", "--out", str(tmp_path))
    code, _, err = run(capsys, *wanted)
    assert code == 0 and "a synthetic table stands in" in err
    text = (tmp_path / "report.md").read_text()
    assert "the synthetic table of this package" in text and "usd to its limit" in text
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    plots = {path.name for path in tmp_path.glob("*.png")}
    assert set(shown) == plots and {"multipliers-sessions-rc-dqn-2.png"} <= plots
    content = json.loads((tmp_path / "report.json").read_text())
    traces = content["multipliers"]
    assert any(entry["multipliers"][1] > 0 for entry in traces["sessions-rc-dqn-1"])
    assert content["config"]["limits"] == {"usd": 0.001}
    monkeypatch.setattr(RcDqnPolicy, "fit", None)  # given again, nothing is trained again
    assert run(capsys, *wanted)[0] == 0
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["multipliers"] == traces and again["results"] == content["results"]


def test_a_report_without_limits_says_why_it_shows_no_multipliers(capsys, tmp_path):
    wanted = ("report", "--envs", "m4a1", "--policies", "random,greedy", "--seeds", "1")
    code, out, _ = run(capsys, *wanted, "--out", str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert code == 0 and "no average had a limit" in text and "one seed" in text
    assert str(tmp_path / "report.md") in out.splitlines()


def row(policy, seed, reward):
    return Row("e", policy, seed, "1", reward, 0.5, 1.0, 0.1, 5.0, 0.0, 0.0, 0.0, 10)


def test_the_paired_test_compares_the_same_seeds():
    rows = [row("a", seed, value) for seed, value in enumerate([1.0, 1.2, 1.1, 1.4])]
    rows += [row("greedy", seed, value) for seed, value in enumerate([0.9, 1.0, 1.2, 1.1])]
    found = paired(rows, "a", "greedy", "1")
    assert found["difference"] == pytest.approx(0.125) and found["won"] == 3
    assert found["p"] == pytest.approx(0.2394, abs=1e-4)  # t = 1.4639, 3 degrees of freedom
    assert paired(rows[:1], "a", "greedy", "1") is None
    alike = [row("a", seed, 1.5) for seed in (1, 2)] + [row("greedy", seed, 1.0) for seed in (1, 2)]
    assert paired(alike, "a", "greedy", "1")["p"] is None


def test_calibrate_goes_from_all_local_to_all_cloud(capsys):
    code, out, _ = run(capsys, "calibrate", "--table", "synthetic", "--json")
    rows = json.loads(out)["results"]
    assert code == 0 and [row["share"] for row in rows] == [round(0.1 * n, 1) for n in range(11)]
    table = synthetic.question_table()
    assert rows[0]["measured"] == pytest.approx(table.scores[:, 0].mean())
    assert rows[-1]["measured"] == pytest.approx(table.scores[:, 1].mean())
    assert rows[0]["usd_per_1000"] == 0
    dollars = [row["usd_per_1000"] for row in rows]
    thresholds = [row["threshold"] for row in rows]
    assert dollars == sorted(dollars) and thresholds == sorted(thresholds, reverse=True)
    straight = (rows[0]["measured"] + rows[-1]["measured"]) / 2
    assert rows[5]["measured"] > straight + 0.02  # better than a coin


def test_training_leaves_no_folder_of_logs_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = M4A1Env(synthetic.conversations(), "train", 1)
    train(env, Myopic(), Plan("rc-dqn", 1, 20))
    TmoPpo(1, steps=16).fit(env)
    assert list(tmp_path.iterdir()) == []
    PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu").learn(16)
    assert [path.name[:4] for path in tmp_path.iterdir()] == ["SB3-"]  # as it is by default


def test_limits_go_by_name():
    inf = float("inf")
    assert limits_of({"usd": 0.5, "risk": 1.0}) == (inf, 0.5, inf, 1.0)
    with pytest.raises(InputError, match="limit usd=-1"):
        limits_of({"usd": -1.0})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--algo", "zork"], "unknown algorithm 'zork'"),
        (["train", "--env", "zork"], "unknown environment 'zork'"),
        (["train", "--seeds", "0"], "--seeds 0"),
        (["train", "--steps", "0"], "0 steps"),
        (["train", "--limit", "usd"], "--limit 'usd'"),
        (["train", "--limit", "zork=1"], "limit zork=1"),
        (["train", "--env", "m4a1", "--limit", "risk=1"], "m4a1 counts no risk"),
        (["train", "--budgets", "0.5"], "budget '0.5' is not share of all-cloud dollars:risk"),
        (["report", "--seeds", "0"], "--seeds 0"),
        (["report", "--trained", "nowhere"], "nowhere: no folder of trained policies"),
        (["report", "--limit", "risk=1"], "m4a1 counts no risk"),
        (["eval", "--trained", "nowhere"], "nowhere: no folder of trained policies"),
        (["report", "--policies", "zork"], "unknown policy 'zork'"),
        (["report", "--envs", "zork"], "unknown environment 'zork'"),
        (["calibrate", "--router", "zork"], "unknown router 'zork'"),
        (["calibrate", "--table", "zork"], "unknown table 'zork'"),
    ],
)
def test_a_mistake_is_named_in_one_line(capsys, arguments, words):
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1
