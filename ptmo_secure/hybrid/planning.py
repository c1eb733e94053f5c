"""Reads a turn and says what may be done with it: the steps of a request before anything leaves."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.deciding import (
    Choice,
    RulePolicy,
    Situation,
    affordable,
    decide,
    permitted,
    situation_of,
)
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.reading import ConversationReader, Turn
from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.privacy.manager import OffloadingDecision, PrivacyManager
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.types import Route

POLICIES = ("rule", "rl")


class TurnPolicy(Protocol):
    """Chooses where a turn is answered."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def view(self, situation: Situation, left: float | None) -> View:
        """Return what it sees of a turn; `left` is the epsilon that the user has left."""

    def choose(self, view: View, mask: Mask) -> int:
        """Return the number of an action whose mask is true."""


class Planner:
    """What is known before a turn is answered. Thread-safe.

    Args:
        guard: reads and masks.
        classifier: rates by that guard.
        manager: says which segments may go, and knows the budget.
        policy: name of the policy.
        cascade: whether the device may answer first and a cloud afterwards.

    Security: sends nothing, and charges nothing.
    """

    def __init__(
        self,
        guard: SharedGuard,
        classifier: SensitivityClassifier,
        manager: PrivacyManager,
        policy: str = "rule",
        *,
        cascade: bool = False,
    ) -> None:
        self._manager, self._cascade = manager, cascade
        self._reader = ConversationReader(guard, classifier, manager)
        self.policy = make_policy(policy, manager.budget, cascade=cascade)

    def read(
        self, messages: Sequence[Mapping[str, object]], user: str, session: str, *, stays: bool
    ) -> Turn:
        """Read a conversation; see `ConversationReader.read`."""
        return self._reader.read(messages, user, session, stays=stays)

    def divide(self, turn: Turn, max_tokens: int, kept: frozenset[int] = frozenset()) -> Situation:
        """Return what may go of a turn, by its levels.

        Args:
            turn: as read.
            max_tokens: of the answer.
            kept: numbers of segments that its user keeps on the device.
        """
        if turn.vault is None:
            proposed = OffloadingDecision(Route.LOCAL, turn.found, ())
        else:
            proposed = self._manager.propose(turn.query, turn.found)
        return situation_of(turn, proposed, kept, max_tokens, escalates=self._cascade)

    def decided(
        self, turn: Turn, max_tokens: int, kept: frozenset[int] = frozenset()
    ) -> tuple[Situation, Choice]:
        """Return what may go of a turn and what is done, all steps of `pipeline.py` together.

        Args: as `divide`.
        """
        case = self.divide(turn, max_tokens, kept)
        allowed = permitted(case)
        left = self.left(turn, allowed)
        allowed = affordable(allowed, case.proposed.cost, left)
        return case, decide(case, allowed, self.policy.view(case, left), self.policy.choose)

    def left(self, turn: Turn, allowed: Mask) -> float | None:
        """Return the epsilon that a user has left; None where it cannot be known.

        The budget is not opened for a turn that stays anyway.
        """
        if int(allowed.sum()) < 2:
            return None
        try:
            return self._manager.budget.status(turn.user).left
        except Exception:  # fail closed, whatever it was: without a budget nothing is told
            return None


def make_policy(name: str, budget: PrivacyBudget, *, cascade: bool) -> TurnPolicy:
    """Return a policy by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in POLICIES:
        raise InputError(f"unknown policy {name!r}: choose from {', '.join(POLICIES)}")
    if name == "rl":
        from ptmo_secure.hybrid.learned import LearnedPolicy

        return LearnedPolicy(budget.limits.user_epsilon)
    return RulePolicy(cascade=cascade)
