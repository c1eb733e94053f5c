"""What could be reached with outcomes that no real policy knows: the ends of every scale."""

from ptmo_secure.errors import EngineError
from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.offload.envs.base import Truth
from ptmo_secure.offload.policies.base import Policy, best


class QueryOracle(Policy):
    """The best reward of each turn by itself, with its true outcomes."""

    name = "query-oracle"
    needs_truth = True

    def begin(self, truth: Truth | None) -> None:
        """Keep the truth."""
        self._truth = _told(truth)

    def choose(self, view: View, mask: Mask) -> int:
        """The best one now, truly."""
        return best(view.alpha * self._truth.quality() + self._truth.rest(), mask)


class ConstrainedOracle(Policy):
    """The best whole episode within the budgets, by an exact dynamic programme."""

    name = "constrained-oracle"
    needs_truth = True

    def begin(self, truth: Truth | None) -> None:
        """Plan the episode."""
        self._rest = list(_told(truth).plan())

    def choose(self, view: View, mask: Mask) -> int:
        """The next action of the plan."""
        return self._rest.pop(0)


def _told(truth: Truth | None) -> Truth:
    if truth is None:
        raise EngineError("an oracle needs the true outcomes of a simulation")
    return truth
