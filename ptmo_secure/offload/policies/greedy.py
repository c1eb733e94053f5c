"""The best reward of the present turn, by the estimate that stands in the view."""

from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.offload.policies.base import Policy, best


class MaskedGreedy(Policy):
    """argmax over allowed a of alpha q(s, a) + rest(s, a), with q of the training split alone."""

    name = "greedy"

    def choose(self, view: View, mask: Mask) -> int:
        """The best one now, whatever comes later."""
        return best(view.reward(view.estimate), mask)
