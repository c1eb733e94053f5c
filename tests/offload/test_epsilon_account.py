"""The account of epsilon composes, and a policy that has one never passes it."""

import math

import numpy as np
import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies import make_policy
from ptmo_secure.offload.rl.account import EpsilonAccount
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


def test_a_policy_with_an_account_stops_disclosing_when_it_is_spent():
    env = SessionsEnv(
        synthetic.question_table(150), "test", 2, (9.0, 9.0), SessionConfig(sessions=40)
    )
    free = make_policy("rl", 1)
    used = sum(run_episode(env, free, episode).used[3] for episode in range(40))
    held = make_policy("rl", 1)
    held.account = EpsilonAccount(used / 4)
    played = [run_episode(env, held, episode) for episode in range(40)]
    disclosed = sum(episode.used[3] for episode in played)
    assert 0.5 * used / 4 < disclosed <= used / 4 + 1e-9
    assert played[-1].used[3] == 0 and sum(episode.overruled for episode in played) == 0
