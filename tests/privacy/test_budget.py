"""Accounting of disclosures: composition, window, refusal, sealed state."""

import json
import math
import os
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.cli.clouds import _shared_budget
from ptmo_secure.errors import EngineError, InputError, PtmoError, SecurityError
from ptmo_secure.privacy import budget as budget_module
from ptmo_secure.privacy.budget import (
    BudgetLimits,
    BudgetSpentError,
    PrivacyBudget,
    compose,
    compose_advanced,
    compose_basic,
)
from ptmo_secure.privacy.budget_state import OBJECT_NAME, MemoryState, SealedState, decode
from ptmo_secure.privacy.risk import SHARES, disclosure_cost, text_cost
from ptmo_secure.sealed.store import SealedStore
from ptmo_secure.types import PrivateSpan

DAY = 86_400.0
costs = st.lists(st.floats(0, 3), max_size=40)


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def test_the_cost_of_a_value_is_the_log_of_what_is_left_of_secrecy():
    assert disclosure_cost(0.75) == pytest.approx(math.log(4))
    assert disclosure_cost(0.75, "masked") == pytest.approx(0.1 * math.log(4))
    assert disclosure_cost(0.0) == 0.0
    assert disclosure_cost(1.0) == disclosure_cost(0.995) == pytest.approx(-math.log(0.005))
    assert list(SHARES.values()) == sorted(SHARES.values(), reverse=True)


def test_costs_add_up_as_severities_combine():
    spans = [PrivateSpan(0, 1, "SECRET", 0.75), PrivateSpan(2, 3, "EMAIL", 0.6)]
    total = text_cost(spans, style="unmasked") - text_cost()
    assert 1 - math.exp(-total) == pytest.approx(1 - 0.25 * 0.4)
    assert text_cost((), ("health",)) > text_cost((), ("travel",)) > text_cost() > 0


@pytest.mark.parametrize(("severity", "style"), [(-0.1, "masked"), (1.1, "masked"), (0.5, "open")])
def test_a_wrong_severity_or_style_is_refused(severity, style):
    with pytest.raises(InputError):
        disclosure_cost(severity, style)


@settings(deadline=None)
@given(costs, st.floats(1e-9, 0.1))
def test_advanced_composition_is_the_published_formula(each, delta):
    expected = math.sqrt(2 * math.log(1 / delta) * sum(e**2 for e in each)) + sum(
        e * (math.exp(e) - 1) / (math.exp(e) + 1) for e in each
    )
    assert compose_advanced(each, delta) == pytest.approx(expected)


@settings(deadline=None)
@given(costs, st.floats(0, 3))
def test_another_disclosure_never_makes_less(each, more):
    assert compose([*each, more], 1e-6) >= compose(each, 1e-6) - 1e-12
    assert compose(each, 1e-6) <= compose_basic(each) + 1e-12


def test_few_large_costs_add_up_and_many_small_ones_by_their_squares():
    assert compose([1.0, 1.0], 1e-6) == compose_basic([1.0, 1.0]) == 2.0
    small = [0.005] * 2000
    assert compose(small, 1e-6) == compose_advanced(small, 1e-6) < 1.3 < compose_basic(small)


def test_what_would_pass_a_limit_is_refused_and_not_counted():
    subject = PrivacyBudget(BudgetLimits(user_epsilon=3.0, session_epsilon=2.0))
    assert subject.spend("ann", "a", 1.5).left == 1.5
    with pytest.raises(BudgetSpentError, match="session"):
        subject.spend("ann", "a", 0.6)
    assert subject.spend("ann", "b", 1.5).left == 0.0
    with pytest.raises(BudgetSpentError, match="user"):
        subject.spend("ann", "c", 0.1)
    assert subject.spend("bob", "a", 1.5).spent == 1.5
    status = subject.status("ann")
    assert (status.spent, status.spends) == (3.0, 2)
    assert status.sessions == {"a": 1.5, "b": 1.5}


def test_spends_leave_the_window_one_by_one():
    clock = Clock()
    subject = PrivacyBudget(BudgetLimits(session_epsilon=5.0), clock=clock)
    subject.spend("ann", "a", 2.0)
    clock.now += DAY / 2
    subject.spend("ann", "a", 1.0)
    clock.now += DAY / 2 - 1
    assert subject.status("ann").spent == 3.0
    clock.now += 1
    assert subject.status("ann").spent == 1.0
    clock.now += DAY / 2
    assert subject.status("ann").spent == 0.0
    assert subject.users() == []


@pytest.mark.parametrize("back", [1.0, DAY, 900_000.0, 10_000_000.0])
def test_a_clock_that_is_put_back_refills_nothing(back):
    clock = Clock()
    subject = PrivacyBudget(clock=clock)
    subject.spend("ann", "a", 2.0)
    clock.now -= back
    assert subject.status("ann").spent == 2.0
    with pytest.raises(BudgetSpentError):
        subject.spend("ann", "a", 0.5)
    subject.spend("ann", "b", 1.0)
    clock.now = 1_000_000.0 + DAY - 1
    assert subject.status("ann").spent == 3.0


def test_a_clock_put_forward_and_back_keeps_what_is_spent_then():
    clock = Clock()
    subject = PrivacyBudget(clock=clock)
    clock.now += 30 * DAY
    subject.spend("ann", "a", 2.0)
    clock.now -= 30 * DAY
    assert subject.status("ann").spent == 2.0
    subject.spend("ann", "b", 2.0)
    clock.now += 30 * DAY + DAY - 1
    assert subject.status("ann").spent == 4.0


@pytest.mark.parametrize("cost", [-0.1, math.nan, math.inf, "1", None])
def test_a_wrong_cost_is_refused(cost):
    with pytest.raises(InputError, match="cost"):
        PrivacyBudget().spend("ann", "a", cost)


@pytest.mark.parametrize("name", ["", "x" * 129, "\ud800", None, 3])
def test_a_wrong_name_is_refused(name):
    for user, session in ((name, "a"), ("ann", name)):
        with pytest.raises(InputError):
            PrivacyBudget().spend(user, session, 0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_epsilon": 0},
        {"session_epsilon": -1},
        {"window_s": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(InputError):
        BudgetLimits(**wrong)


def test_threads_never_spend_more_than_there_is():
    subject = PrivacyBudget(BudgetLimits(user_epsilon=5.0, session_epsilon=5.0))
    granted = []

    def work():
        for _ in range(5):
            try:
                subject.spend("ann", "a", 0.5)
                granted.append(1)
            except BudgetSpentError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 10
    assert subject.status("ann").spent == 5.0


def test_old_spends_are_joined_and_never_count_less(monkeypatch):
    monkeypatch.setattr(budget_module, "MAX_SPENDS", 3)
    clock = Clock()
    subject = PrivacyBudget(BudgetLimits(session_epsilon=5.0), clock=clock)
    for _ in range(6):
        clock.now += 1
        subject.spend("ann", "a", 0.5)
    status = subject.status("ann")
    assert (status.spends, status.basic) == (3, 3.0)
    clock.now = 1_000_003.0 + DAY
    assert subject.status("ann").basic >= 1.5  # of the three spent last; the joined ones stay


BROKEN = [
    b"",
    b"{}",
    b"[]",
    b"\xff",
    b'{"version": 2, "latest": 0, "users": {}}',
    b'{"version": 1, "latest": 0, "users": []}',
    b'{"version": 1, "latest": 0, "users": {"ann": [[1, "a"]]}}',
    b'{"version": 1, "latest": 0, "users": {"ann": [[1, "a", -1]]}}',
    b'{"version": 1, "latest": 0, "users": {"ann": [[1, 2, 1]]}}',
    b'{"version": 1, "latest": NaN, "users": {}}',
    b'{"version": 1, "latest": true, "users": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_state_that_cannot_be_read_is_no_empty_budget(data):
    with pytest.raises(SecurityError, match="cannot be read"):
        decode(data)
    state = MemoryState()
    state.save(data)
    with pytest.raises(SecurityError):
        PrivacyBudget(state=state).spend("ann", "a", 0.1)


def test_a_spend_that_cannot_be_stored_is_an_error():
    class Full(MemoryState):
        def save(self, data):
            raise EngineError("disk full")

    subject = PrivacyBudget(state=Full())
    with pytest.raises(EngineError):
        subject.spend("ann", "a", 0.1)
    assert subject.status("ann").spent == 0.0


@pytest.fixture
def device(tmp_path):
    with SealedStore.open(tmp_path / "device") as store:
        yield store, tmp_path / "device" / "objects" / f"{OBJECT_NAME}.sealed"


def test_a_sealed_budget_outlives_its_object_and_its_tee(tmp_path):
    folder = tmp_path / "device"
    first = PrivacyBudget(state=SealedState(folder=folder))
    first.spend("ann", "a", 1.25)
    first.close()
    second = PrivacyBudget(state=SealedState(folder=folder))
    assert second.status("ann").spent == 1.25
    second.reset("ann")
    assert second.status("ann").spent == 0.0
    second.close()
    sealed = (folder / "objects" / f"{OBJECT_NAME}.sealed").read_bytes()
    assert b"ann" not in sealed
    assert os.listdir(folder / "objects") == [f"{OBJECT_NAME}.sealed"]


def test_an_older_budget_file_is_noticed_and_refills_nothing(device):
    store, path = device
    subject = PrivacyBudget(state=SealedState(store))
    subject.spend("ann", "a", 0.5)
    old = path.read_bytes()
    subject.spend("ann", "a", 1.0)
    path.write_bytes(old)
    with pytest.raises(SecurityError, match="ROLLED_BACK"):
        subject.spend("ann", "b", 0.1)
    with pytest.raises(SecurityError):
        subject.status("ann")


@pytest.mark.parametrize("harm", ["remove", "cut", "flip", "empty"])
def test_a_removed_or_damaged_budget_file_is_an_error_until_all_is_reset(device, harm):
    store, path = device
    subject = PrivacyBudget(state=SealedState(store))
    subject.spend("ann", "a", 0.5)
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"cut": data[:-9], "flip": flipped, "empty": b""}[harm])
    for attempt in (lambda: subject.spend("ann", "a", 0.1), lambda: subject.reset("ann")):
        with pytest.raises(SecurityError):
            attempt()
    subject.reset()
    assert subject.status("ann").spent == 0.0


def test_state_holds_times_costs_and_names_alone():
    state = MemoryState()
    PrivacyBudget(state=state, clock=Clock()).spend("ann", "a", 0.5)
    assert json.loads(state.load()) == {
        "version": 1,
        "latest": 1_000_000.0,
        "users": {"ann": [[1_000_000.0, "a", 0.5]]},
    }


def test_a_state_is_of_a_store_or_a_folder():
    with pytest.raises(InputError):
        SealedState()


def test_a_budget_of_a_device_goes_on_when_its_tee_is_started_anew(tmp_path):
    folder = tmp_path / "device"
    with SealedStore.open(folder) as first:
        link = SimpleNamespace(store=first)
        engine = SimpleNamespace(sessions=SimpleNamespace(tee=link))
        budget = _shared_budget(engine)
        budget.spend("ann", "a", 0.5)
    with pytest.raises(PtmoError):
        budget.status("ann")
    engine.sessions.tee = None
    with pytest.raises(EngineError, match="not there"):
        budget.spend("ann", "a", 0.5)
    with SealedStore.open(folder) as second:
        engine.sessions.tee = SimpleNamespace(store=second)
        assert budget.status("ann").spent == pytest.approx(0.5)
        budget.spend("ann", "a", 0.25)
        assert budget.status("ann").spent == pytest.approx(0.75)
