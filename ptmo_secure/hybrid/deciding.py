"""Where a turn is answered: the gate, the budgets, then a policy's choice, which is checked again.

Both policies choose inside the same mask. What they return outside it, or raise, becomes the
device's own answer (`offload.gate`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ptmo_secure.hybrid.reading import Turn
from ptmo_secure.hybrid.segments import Division, divide, pieces_of
from ptmo_secure.offload import gate
from ptmo_secure.offload.actions import Action, Kind, Mask, Piece, View
from ptmo_secure.privacy.manager import OffloadingDecision
from ptmo_secure.types import Level

ACTIONS = tuple(Action(kind) for kind in Kind)
Chooser = Callable[[View, Mask], int]
_NUMBER: Mapping[Kind, int] = {action.kind: number for number, action in enumerate(ACTIONS)}
_EAGER = (Kind.ESCALATE, Kind.CLOUD, Kind.MASKED, Kind.HYBRID)  # in the rule's order
_WHOLE = (Kind.CLOUD, Kind.MASKED, Kind.ESCALATE)


@dataclass(frozen=True, slots=True)
class Situation:
    """A turn as a policy may see it.

    Args:
        turn, proposed, divided: what was read, and what may go of it.
        pieces: its parts as the gate reads them.
        max_tokens: of the answer.
        escalates: whether the device may answer first and a cloud afterwards.
    """

    turn: Turn
    proposed: OffloadingDecision
    divided: Division
    pieces: tuple[Piece, ...]
    max_tokens: int
    escalates: bool = False

    def facts(self) -> dict[str, object]:
        """What the trace tells of it."""
        levels = [piece.level.value for piece in self.pieces]
        return {"pieces": levels, "stays": self.divided.stays} if self.turn.vault else {}


@dataclass(frozen=True, slots=True)
class Choice:
    """What will be done.

    Args:
        kind: one of the five actions.
        overruled: whether the policy failed, or wanted something else.
    """

    kind: Kind
    overruled: bool


def situation_of(
    turn: Turn,
    proposed: OffloadingDecision,
    kept: frozenset[int],
    max_tokens: int,
    *,
    escalates: bool = False,
) -> Situation:
    """Put together what is known of a turn before it is decided."""
    divided = divide(proposed, turn.query, kept)
    pieces = pieces_of(proposed, turn.query)
    if kept:  # the gate knows of no wishes: what the user keeps is PRIVATE to it
        pieces = (*pieces, Piece(Level.PRIVATE, 1))
    return Situation(turn, proposed, divided, pieces, max_tokens, escalates)


def permitted(situation: Situation) -> Mask:
    """Return what the privacy rules allow of the five actions, [5]."""
    mask = gate.privacy_mask(ACTIONS, situation.pieces, situation.turn.sticky)
    divided = situation.divided
    possible = {
        Kind.LOCAL: True,
        Kind.HYBRID: bool(divided.going) and divided.stays > 0,
        **{kind: bool(divided.going) and divided.stays == 0 for kind in _WHOLE},
    }
    possible[Kind.ESCALATE] = possible[Kind.ESCALATE] and situation.escalates
    if situation.turn.vault is None or situation.turn.own:  # only the device knows what is asked
        possible = {Kind.LOCAL: True}
    return np.asarray(mask & [possible.get(action.kind, False) for action in ACTIONS])


def affordable(mask: Mask, cost: float, left: float | None) -> Mask:
    """Return which of these actions the privacy budget allows.

    Args:
        mask: what the rules allow.
        cost: epsilon of telling a cloud.
        left: epsilon that is left; None where the budget cannot be read, which allows nothing.
    """
    alone = np.array([action.kind is Kind.LOCAL for action in ACTIONS])
    return np.asarray(mask & (alone if left is None or not cost <= left else np.ones_like(alone)))


def decide(situation: Situation, mask: Mask, view: View, choose: Chooser) -> Choice:
    """Let a policy choose inside a mask, and hold it to that: both are applied after it too (I4).

    Args:
        situation: the turn.
        mask: what rules and budgets allow, [5].
        view: what the policy sees.
        choose: the policy.
    """
    endless = replace(view, remaining=np.full(4, np.inf))  # hard budgets are in the mask already
    chosen = gate.decide(endless, lambda _, allowed: choose(view, allowed & mask))
    number = chosen.action
    held = bool(mask[number]) and bool(permitted(situation)[number])
    if not held:
        return Choice(Kind.LOCAL, overruled=True)
    return Choice(ACTIONS[number].kind, chosen.overruled)


def names_of(mask: Mask) -> list[str]:
    """Return the names of the actions in a mask."""
    return [action.name for action, fits in zip(ACTIONS, mask, strict=True) if fits]


def plain_view(situation: Situation) -> View:
    """Return a view without costs, for a policy that needs none."""
    n = len(ACTIONS)
    return View(
        text=situation.divided.going,
        observation=np.zeros(0, np.float32),
        actions=ACTIONS,
        pieces=situation.pieces,
        sticky=situation.turn.sticky,
        cost=np.zeros((n, 4)),
        remaining=np.full(4, np.inf),
        arm=np.array([0, 1, 1, 1, 1]),
        retained=np.ones(n),
        rest=np.zeros(n),
        alpha=1.0,
        estimate=np.zeros(n),
    )


class RulePolicy:
    """Tells a cloud whatever may be told.

    Args:
        cascade: the device answers first, where a cloud may be asked afterwards.
    """

    name = "rule"

    def __init__(self, *, cascade: bool = False) -> None:
        self._order = tuple(k for k in _EAGER if cascade or k is not Kind.ESCALATE)

    def view(self, situation: Situation, left: float | None) -> View:
        """Return what it sees of a turn."""
        return plain_view(situation)

    def choose(self, view: View, mask: Mask) -> int:
        """Return the number of an action."""
        fits = (_NUMBER[kind] for kind in self._order if mask[_NUMBER[kind]])
        return next(fits, _NUMBER[Kind.LOCAL])
