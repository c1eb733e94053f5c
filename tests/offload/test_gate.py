"""No policy gets past the gate: what it may do, and what is sent."""

import numpy as np
import pytest

from ptmo_secure.errors import SecurityError
from ptmo_secure.offload import gate
from ptmo_secure.offload.actions import Action, Kind, Piece, View
from ptmo_secure.types import Level

PUBLIC, SEMI, PRIVATE = Level.PUBLIC, Level.SEMI_SENSITIVE, Level.PRIVATE
ACTIONS = tuple(Action(kind) for kind in Kind)


def pieces(*levels):
    return tuple(Piece(level, 5, 1) for level in levels)


def view(levels, *, sticky=False, cost=None, remaining=None):
    n = len(ACTIONS)
    return View(
        text="",
        observation=np.zeros(1, np.float32),
        actions=ACTIONS,
        pieces=pieces(*levels),
        sticky=sticky,
        cost=np.zeros((n, 4)) if cost is None else cost,
        remaining=np.full(4, np.inf) if remaining is None else np.array(remaining),
        arm=np.zeros(n, np.int64),
        retained=np.ones(n),
        rest=np.zeros(n),
        alpha=1.0,
        estimate=np.zeros(n),
    )


def kinds(mask):
    return {action.kind for action, allowed in zip(ACTIONS, mask, strict=True) if allowed}


@pytest.mark.parametrize(
    ("levels", "sticky", "expected"),
    [
        ((PUBLIC,), False, set(Kind)),
        ((PUBLIC, PUBLIC), True, set(Kind) - {Kind.CLOUD}),
        ((SEMI,), False, set(Kind) - {Kind.CLOUD}),
        ((PUBLIC, SEMI), False, set(Kind) - {Kind.CLOUD}),
        ((PRIVATE, PUBLIC), False, {Kind.LOCAL, Kind.HYBRID}),
        ((PRIVATE, SEMI), True, {Kind.LOCAL, Kind.HYBRID}),
        ((PRIVATE,), False, {Kind.LOCAL}),
        ((), False, {Kind.LOCAL}),
    ],
)
def test_the_levels_of_the_pieces_decide_what_is_allowed(levels, sticky, expected):
    assert kinds(gate.privacy_mask(ACTIONS, pieces(*levels), sticky)) == expected


def test_a_turn_is_private_only_when_every_piece_is():
    assert view((PRIVATE, PRIVATE)).level is PRIVATE
    assert view((PRIVATE, PUBLIC)).level is SEMI
    assert view((PUBLIC, PUBLIC)).level is PUBLIC
    assert view(()).level is PRIVATE


def test_an_action_that_costs_more_than_is_left_is_masked():
    cost = np.array([[1.0, 0.0, 5.0, 0.0], [1.0, 0.01, 1.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    assert gate.budget_mask(cost, np.array([2.0, 0.009, np.inf, 0.0])).tolist() == [1, 0, 0]
    assert gate.budget_mask(cost, np.array([9.0, 0.01, 5.0, 0.0])).tolist() == [1, 1, 1]


def test_what_is_spent_already_or_unknown_allows_only_what_is_free():
    cost = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.01, 0.0, 0.0]])
    for spent in (-1.0, np.nan):
        assert gate.budget_mask(cost, np.array([5.0, spent, 1.0, 1.0])).tolist() == [1, 0]
    unknown = np.array([[1.0, np.nan, 0.0, 0.0]])
    assert gate.budget_mask(unknown, np.array([5.0, 5.0, 5.0, 5.0])).tolist() == [False]


def test_where_nothing_fits_the_way_out_is_local_and_never_pays():
    cost = np.ones((len(ACTIONS), 4))
    mask = gate.allowed(view((PUBLIC,), cost=cost, remaining=[0.5, 0.5, 0.5, 0.5]))
    assert kinds(mask) == {Kind.LOCAL}


@pytest.mark.parametrize("wanted", [1, -1, 99, 2.0, None, "cloud", True])
def test_a_choice_that_is_not_allowed_becomes_local(wanted):
    decision = gate.decide(view((PRIVATE,)), lambda v, m: wanted)
    assert (decision.action, decision.overruled) == (0, True)


def test_a_policy_that_fails_is_overruled():
    def broken(v, m):
        raise ValueError("a bug")

    decision = gate.decide(view((PUBLIC,)), broken)
    assert (ACTIONS[decision.action].kind, decision.overruled) == (Kind.LOCAL, True)


def test_a_policy_cannot_widen_the_mask_it_is_given():
    def widening(v, mask):
        mask[:] = True
        return 1

    decision = gate.decide(view((PRIVATE,)), widening)
    assert (decision.action, decision.overruled) == (0, True)
    assert kinds(decision.allowed) == {Kind.LOCAL}


def test_a_failed_choice_without_a_local_way_takes_the_fewest_dollars():
    cost = np.zeros((len(ACTIONS), 4))
    cost[0, 0] = 9.0
    cost[1:, 1] = (0.03, 0.02, 0.01, 0.04)
    stuck = view((PUBLIC,), cost=cost, remaining=[1.0, 1.0, 1.0, 1.0])
    assert gate.decide(stuck, lambda v, m: -1).action == 3


def test_hybrid_leaves_the_private_pieces_out():
    mixed = pieces(PRIVATE, PUBLIC, SEMI)
    assert gate.sent(Action(Kind.HYBRID), mixed) == mixed[1:]
    assert gate.sent(Action(Kind.LOCAL), mixed) == ()


@pytest.mark.parametrize("kind", [Kind.CLOUD, Kind.MASKED, Kind.ESCALATE])
def test_a_private_piece_is_refused_again_where_it_would_be_sent(kind):
    with pytest.raises(SecurityError, match="PRIVATE piece may not leave"):
        gate.sent(Action(kind), pieces(PUBLIC, PRIVATE))


def test_raw_text_with_a_private_value_is_refused_where_it_would_be_sent():
    with pytest.raises(SecurityError, match="SEMI_SENSITIVE piece may not leave by cloud"):
        gate.sent(Action(Kind.CLOUD), pieces(SEMI))
