"""Decides where a query may be answered: by its level, its segments, and the privacy budget.

from ptmo_secure import PrivacyManager

decision = PrivacyManager().make_offloading_decision("My password is secret123. What is Python?")
print(decision.decision.value)  # hybrid
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ptmo_secure.errors import PtmoError
from ptmo_secure.privacy.budget import (
    BudgetLimits,
    BudgetSpentError,
    PrivacyBudget,
    check_names,
)
from ptmo_secure.privacy.budget_state import SealedState
from ptmo_secure.privacy.decompose import QueryDecomposer, Segment
from ptmo_secure.privacy.gate import ALLOWED
from ptmo_secure.privacy.risk import RESIDUAL, text_cost
from ptmo_secure.privacy.sensitivity import Guard, SensitivityClassifier
from ptmo_secure.sealed.paths import default_state_folder
from ptmo_secure.types import Level, Route, Sensitivity

DEFAULT_USER = "default"
DEFAULT_SESSION = "default"


@dataclass(frozen=True, slots=True)
class OffloadingDecision:
    """Where a query may be answered, and why.

    Args:
        decision: LOCAL, HYBRID or CLOUD; `decision.value` is its name in small letters.
        sensitivity: the guard's verdict on the query.
        reasons: in words, one a line.
        segments: the query's parts; empty when it is answered in one place.
        sent: numbers of the segments that may go to the cloud as they are.
        masked: numbers of those that may go with their values masked.
        cost: epsilon that was counted for it.
        budget_left: epsilon that the user has left; None when the budget cannot be read.
    """

    decision: Route
    sensitivity: Sensitivity
    reasons: tuple[str, ...]
    segments: tuple[Segment, ...] = ()
    sent: tuple[int, ...] = ()
    masked: tuple[int, ...] = ()
    cost: float = 0.0
    budget_left: float | None = None


class PrivacyManager:
    """Makes offloading decisions, and counts what they disclose. Thread-safe; a context manager.

    Args:
        classifier: rates texts, and stays the caller's; None makes one.
        budget: counts disclosures, and stays the caller's; None: one kept in the device's sealed
            state, which one program at a time can use.
        limits: of that budget.
        state: folder of the device's sealed state; None: $PTMO_STATE or ~/.local/state/ptmo.
        launch_guard: how a classifier of its own starts the guard.

    Security: decides, and sends nothing. Without a verdict, without a budget that can be read and
    stored, or when it is spent, the decision is LOCAL. Costs are counted when the decision is made,
    whether or not the caller then sends anything.
    """

    def __init__(
        self,
        classifier: SensitivityClassifier | None = None,
        budget: PrivacyBudget | None = None,
        *,
        limits: BudgetLimits | None = None,
        state: Path | None = None,
        launch_guard: Callable[[], Guard] | None = None,
    ) -> None:
        self._lent_classifier, self._lent_budget = classifier is not None, budget is not None
        self._classifier = classifier or SensitivityClassifier(launch_guard=launch_guard)
        self._decomposer = QueryDecomposer(self._classifier)
        self.budget = budget or PrivacyBudget(
            limits, SealedState(folder=state or default_state_folder())
        )

    def make_offloading_decision(
        self, query: str, *, user: str = DEFAULT_USER, session: str = DEFAULT_SESSION
    ) -> OffloadingDecision:
        """Decide where a query may be answered, and count the cost of it.

        PUBLIC: the cloud. PRIVATE: this device. SEMI_SENSITIVE: hybrid, if a segment may go: a
        PUBLIC one as it is, a SEMI_SENSITIVE one with its values masked. Each of these only as far
        as the budget reaches; the level's own limits hold whatever is left of it.

        Args:
            query: the user's text.
            user, session: whose budget it is, 1 to 128 characters.

        Raises:
            InputError: `query` is no string, or a name is bad.
        """
        check_names(user, session)
        return self.charge(self.propose(query), user=user, session=session)

    def propose(self, query: str, found: Sensitivity | None = None) -> OffloadingDecision:
        """As `make_offloading_decision`, but nothing is counted yet: what the levels allow.

        Args:
            query: the user's text.
            found: the verdict on it; None: the classifier is asked.
        """
        if found is None:
            found = self._classifier.classify(query)
        why = found.reasons
        if Route.HYBRID in ALLOWED[found.level]:
            segments = tuple(self._decomposer.split(query, found))
            sent, masked = _outgoing(segments)
            if not sent and not masked:
                return OffloadingDecision(
                    Route.LOCAL, found, (*why, "local: no segment may go out"), segments
                )
            told = f"hybrid: {len(sent)} segments as they are, {len(masked)} masked"
            cost = _cost(segments, sent, masked)
            return OffloadingDecision(
                Route.HYBRID, found, (*why, told), segments, sent, masked, cost
            )
        if Route.CLOUD in ALLOWED[found.level] and query.strip():
            told = "cloud: the whole query"
            return OffloadingDecision(Route.CLOUD, found, (*why, told), cost=RESIDUAL)
        return OffloadingDecision(Route.LOCAL, found, (*why, "local: nothing may go out"))

    def charge(
        self,
        proposed: OffloadingDecision,
        *,
        user: str = DEFAULT_USER,
        session: str = DEFAULT_SESSION,
    ) -> OffloadingDecision:
        """Count what a proposal discloses; without budget for it the decision is LOCAL.

        Args:
            proposed: by `propose`; one that is LOCAL costs nothing.
            user, session: as in `make_offloading_decision`.

        Raises:
            InputError: a name is bad.
        """
        check_names(user, session)
        if proposed.decision is Route.LOCAL:
            return proposed
        left, refusal = self._charge(user, session, proposed.cost)
        if refusal is None:
            return replace(proposed, budget_left=left)
        why = (*proposed.sensitivity.reasons, f"local: {refusal}")
        return OffloadingDecision(
            Route.LOCAL, proposed.sensitivity, why, proposed.segments, budget_left=left
        )

    def _charge(self, user: str, session: str, cost: float) -> tuple[float | None, str | None]:
        """Count a cost; return what is left, and why it was refused."""
        try:
            try:
                return self.budget.spend(user, session, cost).left, None
            except BudgetSpentError as spent:
                return self.budget.status(user).left, str(spent)
        except Exception as failure:  # fail closed, whatever it was
            return None, f"the privacy budget cannot be used ({type(failure).__name__})"

    def give_back(self, user: str, session: str, charged: float, unspent: float) -> None:
        """Take back a charge for what certainly was not sent; where that fails it stays counted.

        Args:
            user, session: who was charged.
            charged: the cost that was counted.
            unspent: how much of it.
        """
        with suppress(PtmoError, OSError):
            self.budget.give_back(user, session, charged, unspent)

    def close(self) -> None:
        """End the guard and the budget's TEE, if this object started them. Idempotent."""
        if not self._lent_classifier:
            self._classifier.close()
        if not self._lent_budget:
            self.budget.close()

    def __enter__(self) -> "PrivacyManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _outgoing(segments: Sequence[Segment]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which segments may go as they are, and which with their values masked.

    Cut around values, the parts make sense together alone: all go, with the values masked.
    """
    if any(segment.entity for segment in segments):
        return (), tuple(segment.order for segment in segments)
    sent = tuple(s.order for s in segments if s.level is Level.PUBLIC and s.text.strip())
    masked = tuple(
        s.order
        for s in segments
        if s.level is Level.SEMI_SENSITIVE and s.spans and s.refers_to is None
    )
    return sent, masked


def _cost(segments: Sequence[Segment], sent: Sequence[int], masked: Sequence[int]) -> float:
    """Return what goes out, as one text."""
    going = [segments[order] for order in (*sent, *masked)]
    spans = {span for segment in going for span in segment.spans}
    topics = {topic for segment in going for topic in segment.topics}
    return text_cost(spans, topics)
