"""The policy inside the package: small, decides without torch, keeps what the gate says."""

import subprocess
import sys

import numpy as np
import pytest

from ptmo_secure.offload import gate, shipped, synthetic
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.rollout import run_episode


def test_it_is_smaller_than_five_megabytes_and_has_a_card():
    files = list(shipped.FOLDER.iterdir())
    assert {path.name for path in files} == {"README.md", "sessions.npz", "words.npz"}
    assert sum(path.stat().st_size for path in files) < 5_000_000
    card = (shipped.FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("ptmo offload train", "seed 1", "llmrouter", "MIT"):
        assert word in card, word


def test_its_network_says_how_it_was_made():
    card = make_policy("rl", 0)._pilot.network.card
    found = card["algo"], card["env"], card["seed"], card["data"]
    assert found == ("rc-ppo", "sessions", 1, True)
    assert card["command"].startswith("ptmo offload train")


def test_it_keeps_budgets_and_is_never_overruled():
    env = SessionsEnv(
        synthetic.question_table(150), "test", 2, (0.3, 0.03), SessionConfig(sessions=25)
    )
    policy = make_policy("rl", 3)
    played = [run_episode(env, policy, episode) for episode in range(env.episodes)]
    assert not any(episode.over_budget or episode.overruled for episode in played)
    assert sum(episode.used[1] for episode in played) > 0  # some of it went to the cloud


def test_what_it_prefers_depends_on_the_question():
    config = SessionConfig(sessions=9)
    env = SessionsEnv(synthetic.question_table(150), "test", 2, (9.0, 9.0), config)
    env.reset(options={"episode": 0})
    view = env.view()
    policy = make_policy("rl", 0)
    mask = gate.allowed(view)
    assert policy.choose(view, mask) == policy.choose(view, mask)
    easy, hard = (
        policy._advice.model.ask(text)
        for text in ("Is the sky blue? Answer yes or no.", "Compute the value of 17 * 23 - 4 / 2.")
    )
    assert np.abs(easy - hard).max() > 0.02


PROGRAM = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "stable_baselines3", "sb3_contrib", "sklearn"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np
from ptmo_secure.offload.rl.network import load_network
from ptmo_secure.offload.shipped import NETWORK, shipped_words
network = load_network(NETWORK)
scores = shipped_words().ask("What is the capital of France?")
action = network.best(np.zeros(network.layout.size), np.ones(network.layout.actions, bool))
print(action, scores.shape, np.isfinite(scores).all())
"""


def test_it_decides_where_no_learning_library_is_installed():
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[1:] == ["(3,)", "True"]


@pytest.mark.parametrize("seed", [0, 5])
def test_fitting_it_changes_nothing(seed):
    policy = make_policy("rl", seed)
    before = policy._pilot.network.head[0].copy()
    policy.fit(SessionsEnv(synthetic.question_table(100), config=SessionConfig(sessions=3)))
    assert np.array_equal(policy._pilot.network.head[0], before)
