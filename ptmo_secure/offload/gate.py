"""What is allowed at all: the privacy rules first, then the hard budgets, then a policy's choice.

The order is fixed, and the choice is checked again afterwards, so that no policy, however it was
trained, can widen what the first two allow.

Security: decides from levels, counts and numbers alone; it never sees text. Whatever is unknown
or broken leaves LOCAL as the one thing that may happen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ptmo_secure.errors import SecurityError
from ptmo_secure.offload.actions import USD, Action, Floats, Kind, Mask, Piece, View
from ptmo_secure.types import Level

_SENT = {
    Kind.LOCAL: frozenset[Level](),
    Kind.CLOUD: frozenset({Level.PUBLIC}),
    Kind.MASKED: frozenset({Level.PUBLIC, Level.SEMI_SENSITIVE}),
    Kind.HYBRID: frozenset({Level.PUBLIC, Level.SEMI_SENSITIVE}),
    Kind.ESCALATE: frozenset({Level.PUBLIC, Level.SEMI_SENSITIVE}),
}
"""Levels of the pieces that may go to the cloud, by what is done."""

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be done, and what it was chosen from.

    Args:
        action: number of the action.
        allowed: what privacy and budgets allowed, [actions].
        overruled: whether the policy failed or wanted something that was not allowed.
    """

    action: int
    allowed: Mask
    overruled: bool


def privacy_mask(actions: Sequence[Action], pieces: Sequence[Piece], sticky: bool) -> Mask:
    """Return the actions that the privacy rules allow, [actions].

    Local always. Raw text only where every piece is PUBLIC and no PRIVATE turn lies close behind;
    masked text and escalation only where no piece is PRIVATE; hybrid where some piece is not
    PRIVATE. A turn without pieces was not understood, and stays.

    Security: the rules read levels alone, so a policy cannot influence them.
    """
    levels = {piece.level for piece in pieces}
    public = levels == {Level.PUBLIC}
    sendable = bool(levels) and levels <= {Level.PUBLIC, Level.SEMI_SENSITIVE}
    partly = bool(levels & {Level.PUBLIC, Level.SEMI_SENSITIVE})
    rules = {
        Kind.LOCAL: True,
        Kind.CLOUD: public and not sticky,
        Kind.MASKED: sendable,
        Kind.HYBRID: partly,
        Kind.ESCALATE: sendable,
    }
    return np.array([rules[action.kind] for action in actions], dtype=bool)


def budget_mask(cost: Floats, remaining: Floats) -> Mask:
    """Return the actions that no budget forbids, [..., actions].

    Args:
        cost: what each action uses at most, [..., actions, 4].
        remaining: what is left, [..., 4].
            A negative or unknown (NaN) rest allows nothing that uses any.
    """
    left = np.where(np.isnan(remaining), -np.inf, remaining)[..., None, :]
    uses = np.where(np.isnan(cost), np.inf, cost)
    return np.asarray(((uses <= left + _ROUNDING) | (uses == 0)).all(axis=-1))


def without_budgets(view: View) -> View:
    """Return the view of a turn in which every budget is endless.

    For policies that are measured as they were released: their violations shall show.

    Security: levels and stickiness stay, so the privacy rules hold as ever.
    """
    return replace(view, remaining=np.full_like(view.remaining, np.inf))


def allowed(view: View) -> Mask:
    """Return what a policy may choose from, [actions]; never empty.

    Where no action fits the budgets, the way out is the local one; an action that pays or leaks
    beyond its cap is never the way out.
    """
    private = privacy_mask(view.actions, view.pieces, view.sticky)
    both = private & budget_mask(view.cost, view.remaining)
    if both.any():
        return np.asarray(both)
    return np.array([action.kind is Kind.LOCAL for action in view.actions], dtype=bool)


def decide(view: View, choose: Callable[[View, Mask], int]) -> Decision:
    """Let a policy choose inside the gate, and hold it to that.

    Args:
        view: the turn.
        choose: the policy. An exception, or a choice that is not allowed, becomes the cheapest
            allowed action that is local, else the cheapest in dollars.
    """
    mask = allowed(view)
    try:
        action = choose(view, mask.copy())
        if isinstance(action, (int, np.integer)) and 0 <= action < len(mask) and mask[action]:
            return Decision(int(action), mask, overruled=False)
    except Exception:  # noqa: S110 - fail closed, whatever a policy raises
        pass
    return Decision(_fallback(view, mask), mask, overruled=True)


def _fallback(view: View, mask: Mask) -> int:
    local = [i for i, a in enumerate(view.actions) if a.kind is Kind.LOCAL and mask[i]]
    if local:
        return local[0]
    choices = np.flatnonzero(mask)
    return int(choices[np.argmin(view.cost[choices, USD])])


def sent(action: Action, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the pieces that an action sends to the cloud, masked or not.

    Hybrid leaves PRIVATE pieces out; every other kind sends the whole turn or nothing.

    Raises:
        SecurityError: the action would send a piece that its kind may not.
    """
    if action.kind is Kind.LOCAL:
        return ()
    if action.kind is Kind.HYBRID:
        return tuple(piece for piece in pieces if piece.level in _SENT[Kind.HYBRID])
    for piece in pieces:
        if piece.level not in _SENT[action.kind]:
            raise SecurityError(f"a {piece.level.value} piece may not leave by {action.kind.value}")
    return tuple(pieces)
