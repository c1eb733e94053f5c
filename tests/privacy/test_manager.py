"""Offloading decisions: inside the level, inside the budget."""

import pytest
from fakes import FakeGuard

from ptmo_secure import Level, PrivacyManager, QueryDecomposer, Route, SensitivityClassifier
from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.pipeline import ALLOWED
from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
from ptmo_secure.privacy.budget_state import MemoryState
from ptmo_secure.privacy.risk import RESIDUAL, disclosure_cost
from tee_sim.client import TeeError
from tee_sim.guard.scoring import scan_text

EXAMPLE = "My password is secret123. What is Python?"


class InProcess:
    def scan(self, text):
        return scan_text(text)

    def close(self):
        pass


def manager(limits=None, guard=None, state=None):
    classifier = SensitivityClassifier(guard or InProcess())
    return PrivacyManager(classifier, PrivacyBudget(limits, state))


def test_the_quick_start_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("PTMO_STATE", str(tmp_path / "state"))
    query = "My password is secret123. What is Python?"
    result = SensitivityClassifier().classify(query)
    assert (result.level.name, result.score) == ("SEMI_SENSITIVE", pytest.approx(0.75, abs=0.02))
    with PrivacyManager() as subject:
        assert subject.make_offloading_decision(query).decision.value == "hybrid"
    assert [s.level for s in QueryDecomposer().decompose(query)] == [Level.PRIVATE, Level.PUBLIC]
    with PrivacyManager() as subject:  # another start of the same device
        assert subject.budget.status("default").spends == 1


@pytest.mark.parametrize(
    ("query", "route"),
    [
        (EXAMPLE, "hybrid"),
        ("My password is secret123.", "local"),
        ("What is Python?", "cloud"),
        ("Write a birthday card for my daughter Emma please", "hybrid"),
        ("My boss yells at me in meetings. How do I respond calmly?", "hybrid"),
        ("I was diagnosed with HIV. How do I tell my wife?", "local"),
        ("", "local"),
        (" \n", "local"),
    ],
)
def test_the_level_decides_where_a_query_may_go(query, route):
    decision = manager().make_offloading_decision(query)
    assert decision.decision.value == route
    assert decision.decision in ALLOWED[decision.sensitivity.level]
    assert decision.reasons[-1].startswith(f"{route}:")


def test_only_the_public_segment_of_the_example_goes():
    decision = manager().make_offloading_decision(EXAMPLE)
    assert [decision.segments[order].text for order in decision.sent] == ["What is Python?"]
    assert decision.masked == ()
    assert decision.cost == RESIDUAL
    assert decision.budget_left == pytest.approx(5.0 - RESIDUAL)


def test_a_masked_value_costs_its_share():
    card = manager().make_offloading_decision("Write a birthday card for my daughter Emma please")
    assert card.cost == pytest.approx(RESIDUAL + disclosure_cost(0.5, "masked"))
    assert [card.segments[order].text for order in card.masked][1] == "Emma"


def test_a_request_that_carries_values_goes_whole_with_all_of_them_masked():
    query = "Write a birthday card for my daughter Emma, she likes snow"
    decision = manager().make_offloading_decision(query)
    assert decision.decision is Route.HYBRID
    assert decision.sent == ()
    assert decision.masked == tuple(range(len(decision.segments)))
    assert [s.text for s in decision.segments if s.entity] == ["Emma"]


def test_no_private_or_bound_segment_is_ever_sent():
    for query in (
        EXAMPLE,
        "My friend Amaya Perez moves to Chile. What does she need? What is Chile?",
        "My card is 4111 1111 1111 1111. Was that one issued in Spain? What is a bank?",
        "제 번호는 010-2345-6789예요. 그런데 된장찌개는 어떻게 끓여요?",
    ):
        decision = manager().make_offloading_decision(query)
        going = [decision.segments[order] for order in decision.sent]
        assert going
        assert all(segment.level is Level.PUBLIC for segment in going)
        assert all(decision.segments[order].refers_to is None for order in decision.masked)


def test_a_spent_budget_makes_everything_local():
    subject = manager(BudgetLimits(user_epsilon=RESIDUAL * 2.5, session_epsilon=RESIDUAL * 1.5))
    assert subject.make_offloading_decision(EXAMPLE, session="a").decision is Route.HYBRID
    second = subject.make_offloading_decision(EXAMPLE, session="a")
    assert second.decision is Route.LOCAL
    assert "budget of this session is spent" in second.reasons[-1]
    assert (second.cost, second.sent, second.masked) == (0.0, (), ())
    assert subject.make_offloading_decision(EXAMPLE, session="b").decision is Route.HYBRID
    third = subject.make_offloading_decision("What is Python?", session="c")
    assert third.decision is Route.LOCAL
    assert "budget of this user is spent" in third.reasons[-1]
    assert subject.make_offloading_decision(EXAMPLE, user="bob").decision is Route.HYBRID


def test_a_local_answer_costs_nothing():
    subject = manager()
    subject.make_offloading_decision("My password is secret123.")
    assert subject.budget.status("default").spends == 0


@pytest.mark.parametrize("query", [EXAMPLE, "What is Python?"])
@pytest.mark.parametrize("failing", ["load", "save"])
def test_a_budget_that_cannot_be_used_makes_everything_local(query, failing):
    class Broken(MemoryState):
        pass

    def fail(*_):
        raise SecurityError("an older version than the newest")

    setattr(Broken, failing, fail)
    decision = manager(state=Broken()).make_offloading_decision(query)
    assert (decision.decision, decision.budget_left) == (Route.LOCAL, None)
    assert "cannot be used (SecurityError)" in decision.reasons[-1]


def test_a_failing_guard_makes_everything_local():
    guard = FakeGuard(fails=TeeError(0xFFFF0006))
    decision = manager(guard=guard).make_offloading_decision("What is Python?")
    assert decision.decision is Route.LOCAL
    assert (decision.sensitivity.level, decision.sensitivity.error) == (Level.PRIVATE, "TeeError")


@pytest.mark.slow
def test_a_device_that_another_program_uses_makes_everything_local(tmp_path):
    with (
        PrivacyManager(state=tmp_path / "device") as first,
        PrivacyManager(state=tmp_path / "device") as second,
    ):
        assert first.make_offloading_decision(EXAMPLE).decision is Route.HYBRID
        decision = second.make_offloading_decision(EXAMPLE)
        assert decision.decision is Route.LOCAL
        assert "cannot be used" in decision.reasons[-1]


def test_no_reason_quotes_the_query():
    decision = manager().make_offloading_decision(EXAMPLE)
    assert "secret123" not in " ".join(decision.reasons)


@pytest.mark.parametrize("names", [{"user": ""}, {"session": "x" * 200}, {"user": None}])
def test_a_wrong_name_is_the_callers_mistake(names):
    with pytest.raises(InputError):
        manager().make_offloading_decision(EXAMPLE, **names)


def test_a_wrong_query_is_the_callers_mistake():
    with pytest.raises(InputError):
        manager().make_offloading_decision(b"bytes")
