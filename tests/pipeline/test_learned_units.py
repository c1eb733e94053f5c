"""The policy inside the package sees a live turn in the units of its training."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from ptmo_secure.hybrid import learned
from ptmo_secure.hybrid.deciding import situation_of
from ptmo_secure.hybrid.reading import Turn
from ptmo_secure.offload import outcomes, synthetic
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.privacy.manager import OffloadingDecision
from ptmo_secure.types import Level, Route, Sensitivity

SHARED = Path(__file__).parents[2] / "shared" / "data"


def situation(text, level=Level.PUBLIC, max_tokens=256):
    found = Sensitivity(level, 0.0)
    decision = OffloadingDecision(Route.CLOUD, found, ())
    turn = Turn(text, found, "ann", "s", vault=object())
    return situation_of(turn, decision, frozenset(), max_tokens)


def test_a_live_turn_has_the_form_of_a_turn_of_the_training():
    env = SessionsEnv(
        synthetic.question_table(150), "test", 2, (0.5, 0.1), SessionConfig(sessions=9)
    )
    env.reset(options={"episode": 0})
    trained, live = env.view(), learned.LearnedPolicy(5.0).view(situation("What is Python?"), 5.0)
    for name in ("observation", "cost", "remaining", "arm", "retained", "rest", "estimate"):
        assert np.shape(getattr(live, name)) == np.shape(getattr(trained, name)), name
    assert live.actions == trained.actions and live.check == trained.check
    assert np.isfinite(live.observation).all() and live.observation.dtype == np.float32


def test_less_of_the_privacy_budget_is_less_of_the_risk_it_may_take():
    policy = learned.LearnedPolicy(5.0)
    left = [policy.view(situation("Who wrote Faust?"), eps).remaining[3] for eps in (5, 2.5, None)]
    assert left == pytest.approx([0.1, 0.05, 0.0])


def test_the_scales_are_those_of_the_training_sessions(monkeypatch):
    folder = outcomes.data_folder(None) or (SHARED if SHARED.is_dir() else None)
    if folder is None:
        pytest.skip("the outcome table llmrouter is not here (PTMO_DATA)")
    monkeypatch.setattr(
        SessionsEnv, "_predict", lambda _, chosen, *_rest: np.zeros((len(chosen.questions), 2))
    )
    env = SessionsEnv(outcomes.load_table("llmrouter", folder), "train", 1)
    found = (env.scales.latency_s, env.scales.usd, env.all_cloud_usd)
    told = (learned.SCALES.latency_s, learned.SCALES.usd, learned.SESSION_USD)
    assert found == pytest.approx(told, rel=1e-6)
