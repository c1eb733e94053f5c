"""Reads a turn and says what may be done with it: the steps of a request before anything leaves."""

from collections.abc import Collection, Sequence
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
from ptmo_secure.hybrid.telling import Message
from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.privacy.decompose import Segment
from ptmo_secure.privacy.manager import OffloadingDecision, PrivacyManager
from ptmo_secure.privacy.risk import RESIDUAL
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.types import Level, Route

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

    Attributes:
        classifier: as given.
        policy: that chooses.

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
        self.classifier = classifier
        self._reader = ConversationReader(guard, classifier, manager)
        self.policy = make_policy(policy, manager.budget, cascade=cascade)

    def read(
        self,
        messages: Sequence[Message],
        user: str,
        session: str,
        *,
        stays: bool,
        marked: Collection[int] = (),
    ) -> Turn:
        """Read a conversation; see `ConversationReader.read`."""
        return self._reader.read(messages, user, session, stays=stays, marked=marked)

    def note(
        self,
        messages: Sequence[Message],
        user: str,
        kept: Collection[int] = (),
        marked: Collection[int] = (),
        *,
        local: bool = False,
    ) -> None:
        """Remember what of a conversation its user keeps; see `Memory.note`."""
        self._reader.memory.note(user, messages, kept, marked, local=local)

    def settle(self, messages: Sequence[Message], user: str, *, told: bool) -> None:
        """Remember whether a turn was told a cloud; see `Memory.settle`."""
        self._reader.memory.settle(user, messages, told=told)

    def hold_back(self, user: str, text: str, calls: Sequence[Message] = ()) -> None:
        """Remember that the device's answer stayed, and its calls; see `Memory.hold_back`."""
        if text.strip() or calls:
            answer = {"role": "assistant", "content": text, "tool_calls": [*calls]}
            self._reader.memory.hold_back(user, answer)

    def hear(self, turn: Turn, text: str, calls: Sequence[Message], said: Message | None) -> None:
        """Remember a cloud's words; see `ConversationReader.hear`."""
        self._reader.hear(turn, text, calls, said)

    def divide(self, turn: Turn, max_tokens: int, kept: frozenset[int] = frozenset()) -> Situation:
        """Return what may go of a turn, by its levels.

        Args:
            turn: as read.
            max_tokens: of the answer.
            kept: numbers of segments that its user keeps on the device.
        """
        if turn.vault is None:
            proposed = OffloadingDecision(Route.LOCAL, turn.found, ())
        elif turn.sent is not None:
            proposed = _undivided(turn)
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

    def budget_refusal(self, turn: Turn, case: Situation) -> str | None:
        """Return the code of why the budget keeps a turn here; None where it does not."""
        allowed = permitted(case)
        if int(allowed.sum()) < 2:
            return None
        left = self.left(turn, allowed)
        if left is None:
            return "budget_unusable"
        afforded = affordable(allowed, case.proposed.cost, left)
        return "budget_spent" if int(afforded.sum()) < 2 else None


def _undivided(turn: Turn) -> OffloadingDecision:
    """Return what may go of a message that is none of the user's: all of it."""
    found, size = turn.found, len(turn.query)
    if found.level is Level.PUBLIC:
        return OffloadingDecision(Route.CLOUD, found, found.reasons, cost=RESIDUAL)
    whole = Segment(
        turn.query, 0, size, found.level, found.score, 0, "", "end", found.spans, found.topics
    )
    cost = RESIDUAL if turn.sent is None else turn.sent.cost
    return OffloadingDecision(Route.HYBRID, found, found.reasons, (whole,), (), (0,), cost)


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
