"""The multipliers find the dual of a linear programme, and hold a long-run average to its limit."""

import numpy as np
import pytest
from constrained_process import RESOURCE, best_response, optimum

from ptmo_secure.errors import InputError
from ptmo_secure.offload.rl.lagrangian import Gains, PidMultipliers

NONE = np.full(4, np.inf)


def limits(limit):
    found = NONE.copy()
    found[RESOURCE] = limit
    return found


def spent(cost):
    found = np.zeros(4)
    found[RESOURCE] = cost
    return found


@pytest.mark.parametrize("limit", [0.8, 1.5, 2.2, 3.1])
def test_against_a_best_response_they_converge_to_the_dual_of_the_linear_programme(limit):
    reward, cost, dual = optimum(limit)
    assert cost == pytest.approx(limit) and dual > 0.3  # the limit binds
    held = PidMultipliers(limits(limit), Gains(kp=0.02, ki=0.01, kd=0.0, smoothing=0.0))
    seen = []
    for _ in range(4000):
        got = best_response(held.value[RESOURCE] / limit)
        seen.append((*got, held.value[RESOURCE]))
        held.update(spent(got[1]))
    mean = np.array(seen[1000:]).mean(axis=0)
    assert mean[1] == pytest.approx(limit, rel=0.01)
    assert mean[0] == pytest.approx(reward, rel=0.01)
    assert mean[2] == pytest.approx(dual, rel=0.03)


def test_a_limit_that_does_not_bind_costs_nothing():
    free = best_response(0.0)[1]
    held = PidMultipliers(limits(2 * free))
    for _ in range(100):
        held.update(spent(best_response(held.value[RESOURCE])[1]))
    assert held.value.tolist() == [0, 0, 0, 0]


def test_after_a_long_excess_the_multiplier_turns_round_at_once():
    gains = Gains(kp=0.1, ki=0.5, kd=0.0, smoothing=0.0, top=2.0)
    held = PidMultipliers(limits(1.0), gains)
    for _ in range(100):
        held.update(spent(3.0))
    assert held.value[RESOURCE] == 2.0
    for _ in range(5):
        held.update(spent(0.0))
    assert held.value[RESOURCE] == 0.0


def test_the_first_updates_are_those_of_the_formula():
    held = PidMultipliers(limits(2.0), Gains(kp=0.5, ki=0.25, kd=1.0, smoothing=0.5))
    assert held.update(spent(4.0))[RESOURCE] == pytest.approx(0.25 + 0.5)  # e = 1
    # e = 2: E[e] = 1.5, I = 0.75, E[J/d] rises from 2 to 2.5
    assert held.update(spent(6.0))[RESOURCE] == pytest.approx(0.75 + 0.5 * 1.5 + 0.5)


def test_resources_without_a_limit_keep_a_multiplier_of_nothing():
    held = PidMultipliers(limits(1.0))
    held.update(np.array([1e9, 2.0, 1e9, np.nan]))
    assert held.value[RESOURCE] > 0 and held.value[[0, 2, 3]].tolist() == [0, 0, 0]


def test_a_cost_that_is_no_number_changes_nothing():
    held = PidMultipliers(limits(1.0))
    before = held.update(spent(2.0)).copy()
    assert held.update(spent(np.nan)).tolist() == before.tolist()


def test_a_restored_controller_goes_on_alike():
    first, second = PidMultipliers(limits(1.0)), PidMultipliers(limits(1.0))
    for cost in (2.0, 0.5, 1.7):
        first.update(spent(cost))
    second.restore(first.state())
    for cost in (1.1, 0.2):
        assert first.update(spent(cost)).tolist() == second.update(spent(cost)).tolist()


@pytest.mark.parametrize("bad", [np.zeros(4), np.full(3, np.inf), -NONE])
def test_limits_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match="limits"):
        PidMultipliers(bad)


@pytest.mark.parametrize(("name", "value"), [("kp", -1.0), ("ki", 0.0), ("smoothing", 1.0)])
def test_gains_out_of_range_are_refused(name, value):
    with pytest.raises(InputError):
        Gains(**{name: value})
