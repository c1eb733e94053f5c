"""The account of epsilon composes, and a policy that has one never passes it."""

import math

import numpy as np
import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.account import EpsilonAccount
from ptmo_secure.offload.actions import RISK
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.evaluate import evaluate
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.rollout import run_episode


def test_few_costs_add_up_and_many_small_ones_compose():
    account = EpsilonAccount(1.0, delta=1e-3)
    for _ in range(3):
        account.spend(0.1)
    assert account.spent == pytest.approx(0.3)
    many = EpsilonAccount(1.0, delta=1e-3)
    for _ in range(400):
        many.spend(0.005)
    advanced = math.sqrt(2 * math.log(1e3) * 400 * 0.005**2) + 400 * 0.005 * math.tanh(0.0025)
    assert many.spent == pytest.approx(advanced) and advanced < 0.4 < 400 * 0.005


def test_what_does_not_fit_is_refused_and_counts_nothing():
    account = EpsilonAccount(0.25)
    account.spend(0.2)
    fits = account.fits(np.array([0.0, 0.05, 0.06, np.nan, -1.0, np.inf]))
    assert fits.tolist() == [True, True, False, False, False, False]
    for bad in (0.06, -1.0, math.nan):
        with pytest.raises(InputError):
            account.spend(bad)
    assert account.spent == pytest.approx(0.2)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, 1)])
def test_an_account_out_of_range_is_refused(epsilon, delta):
    with pytest.raises(InputError):
        EpsilonAccount(epsilon, delta)


@pytest.mark.parametrize("name", ["rl", "cloud-only", "greedy"])
def test_any_policy_stops_disclosing_when_the_account_is_spent(name):
    env = SessionsEnv(
        synthetic.question_table(150), "test", 2, (9.0, 9.0), SessionConfig(sessions=40)
    )
    policy = make_policy(name, 1)
    used = sum(run_episode(env, policy, episode).used[RISK] for episode in range(40))
    account = EpsilonAccount(used / 4)
    played = [run_episode(env, policy, episode, account) for episode in range(40)]
    disclosed = sum(episode.used[RISK] for episode in played)
    assert 0.5 * used / 4 < disclosed <= used / 4 + 1e-9
    assert played[-1].used[RISK] < 0.01 and account.spent <= used / 4
    assert sum(episode.overruled for episode in played) == 0


def test_an_account_that_is_far_from_spent_leaves_the_view_as_it_is():
    env = SessionsEnv(synthetic.question_table(150), "test", 2, (9.0, 9.0))
    env.reset(options={"episode": 0})
    view = env.view()
    assert EpsilonAccount(100.0).held(view) is view
    dearest = view.cost[:, RISK].max()
    held = EpsilonAccount(dearest / 2).held(view)
    assert held.remaining[RISK] <= dearest / 2 and view.remaining[RISK] > dearest
    assert held.remaining[:RISK].tolist() == view.remaining[:RISK].tolist()


def test_a_policy_measured_as_released_is_not_held_but_what_it_disclosed_is_told():
    env = SessionsEnv(
        synthetic.question_table(150), "test", 2, (9.0, 9.0), SessionConfig(sessions=10)
    )

    class Careless(type(make_policy("cloud-only", 1))):
        keeps_budgets = False

    careless = evaluate(env, Careless(1), "sessions", 1, "9:9", epsilon=0.01)
    kept = evaluate(env, make_policy("cloud-only", 1), "sessions", 1, "9:9", epsilon=0.01)
    assert kept.epsilon <= 0.01 < careless.epsilon
