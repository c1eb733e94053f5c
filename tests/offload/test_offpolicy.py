"""Off-policy estimates against the truth of a world that is known, and shadow mode on logs."""

import json

import numpy as np
import pytest

from ptmo_secure import cli
from ptmo_secure.errors import InputError
from ptmo_secure.offload.offpolicy import Logged, estimates
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.shadow import read_log, shadow

KINDS, TURNS, WORLDS = 4, 400, 300
MEAN = np.array([[0.2, 0.7], [0.8, 0.5], [0.4, 0.45], [0.1, 0.9]])  # of each kind and action
LOGGING = np.array([0.3, 0.6, 0.5, 0.8])  # chance of the second action
TARGET = np.array([[0.1, 0.9], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
TRUTH = float((TARGET * MEAN).sum(axis=1).mean())


def world(seed, model=MEAN):
    """A log of a known world, and a model of its rewards that may be wrong."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS, size=TURNS)
    action = (rng.random(TURNS) < LOGGING[kind]).astype(np.int64)
    propensity = np.where(action == 1, LOGGING[kind], 1 - LOGGING[kind])
    reward = (rng.random(TURNS) < MEAN[kind, action]).astype(float)
    return Logged(action, propensity, reward), TARGET[kind], model[kind]


def measured(model):
    """Mean error and coverage of each method over many worlds."""
    found = {}
    for seed in range(WORLDS):
        for one in estimates(*world(seed, model)):
            found.setdefault(one.method, []).append((one.value, one.low <= TRUTH <= one.high))
    return {name: np.array(rows).mean(axis=0) for name, rows in found.items()}


@pytest.mark.parametrize("model", [MEAN, np.full((KINDS, 2), 0.3)], ids=["right", "wrong"])
def test_all_three_find_the_true_value_and_their_intervals_hold_it(model):
    for name, (value, coverage) in measured(model).items():
        assert value == pytest.approx(TRUTH, abs=0.008), name  # 4 standard errors of the mean
        assert 0.91 <= coverage <= 0.985, name


def test_a_good_model_makes_the_doubly_robust_interval_narrow():
    by_name = {one.method: one for one in estimates(*world(1))}
    widths = {name: one.high - one.low for name, one in by_name.items()}
    assert widths["dr"] < widths["ips"]


def test_wrong_propensities_ruin_ips_and_not_dr_with_a_right_model():
    log, target, model = world(3)
    wrong = Logged(log.action, np.full(TURNS, 0.5), log.reward)
    values = {one.method: one.value for one in estimates(wrong, target, model)}
    assert abs(values["dr"] - TRUTH) < 0.05 < abs(values["ips"] - TRUTH)


def test_the_policy_that_ran_is_worth_what_was_logged():
    log, _, model = world(2)
    kind_target = np.stack([1 - log.propensity, log.propensity], axis=1)
    done = np.where(log.action[:, None] == 1, kind_target, kind_target[:, ::-1])
    values = {one.method: one.value for one in estimates(log, done, model)}
    assert values["ips"] == pytest.approx(log.reward.mean())
    assert values["snips"] == pytest.approx(log.reward.mean())


def test_a_policy_that_the_log_never_shows_is_refused():
    log, _, model = world(1)
    other = np.zeros((TURNS, 2))
    other[np.arange(TURNS), 1 - log.action] = 1.0
    with pytest.raises(InputError, match="nothing can be estimated"):
        estimates(log, other, model)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.5, np.nan])
def test_a_propensity_that_is_none_is_refused(propensity):
    with pytest.raises(InputError, match="propensity"):
        Logged(np.zeros(3, np.int64), np.array([0.5, propensity, 0.5]), np.zeros(3))


class ByWord(GroupModel):
    """Predicts that the cloud gains where a text is hard."""

    def __init__(self):
        pass

    def predict(self, texts):
        return np.array([[0.0, 1.0] if "prove" in text else [0.5, 0.4] for text in texts])


def lines(count, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        hard, cloud = bool(rng.random() < 0.5), bool(rng.random() < 0.4)
        right = rng.random() < (0.9 if cloud else (0.2 if hard else 0.8))
        yield {
            "text": f"{'prove' if hard else 'name'} number {number}",
            "action": "cloud" if cloud else "local",
            "propensity": 0.4 if cloud else 0.6,
            "reward": float(right),
        }


def write(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_a_shadow_router_is_worth_what_it_would_earn(tmp_path):
    texts, log = read_log(write(tmp_path / "log.jsonl", lines(3000)))
    share = np.mean(["prove" in text for text in texts])
    found = shadow(texts, log, ByWord(), float(share))
    assert found.share == pytest.approx(share, abs=1e-3)
    for one in found.estimates:  # hard ones to the cloud 0.9, easy ones local 0.8
        assert one.low <= 0.85 <= one.high
        assert one.value > found.logged + 0.1
    assert found.agreement == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "x"}',
        "nothing",
        '{"text": 3, "action": "local", "propensity": 1, "reward": 0}',
        '{"text": "x", "action": "moon", "propensity": 1, "reward": 0}',
        "[1]",
    ],
)
def test_a_bad_line_is_named_without_its_text(capsys, tmp_path, line):
    path = tmp_path / "log.jsonl"
    good = json.dumps(next(lines(1)))
    path.write_text("\n".join([good] * 6 + [line]), encoding="utf-8")
    assert cli.main(["offload", "shadow", str(path)]) == 2
    error = capsys.readouterr().err
    assert "line 7" in error and line not in error and error.count("\n") == 1


def test_the_command_prints_estimates_of_the_packages_router(capsys, tmp_path):
    path = write(tmp_path / "log.jsonl", lines(300))
    assert cli.main(["offload", "shadow", str(path), "--share", "0.3", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["cloud_share"] == pytest.approx(0.3, abs=0.01)
    assert [one["method"] for one in result["estimates"]] == ["ips", "snips", "dr"]
    assert cli.main(["offload", "shadow", str(path), "--share", "1.5"]) == 2
    assert cli.main(["offload", "shadow", str(tmp_path / "none.jsonl")]) == 2
