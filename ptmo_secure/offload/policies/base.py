"""The one interface of all policies, from a coin to a trained network."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ptmo_secure.offload.actions import Floats, Kind, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv, Truth


class Policy:
    """Chooses an action for each turn, among those that the gate allows.

    A policy is fitted once on the training environment, begins each episode, and chooses turn by
    turn; one that learns while it runs looks at what came of its choice. `choose` may return only
    an action whose mask is true; the gate replaces any other.

    Args:
        seed: of whatever is random in it.
    """

    name: ClassVar[str]
    needs_truth: ClassVar[bool] = False
    """Whether it is an oracle, which is told true outcomes and can exist in a simulation only."""

    keeps_budgets: ClassVar[bool] = True
    """Whether the gate holds it to the hard budgets; the privacy rules hold for every policy."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def fit(self, train: OffloadEnv) -> None:
        """Learn from the training split; most simple policies need none of it."""

    def tune(self, train: OffloadEnv) -> None:
        """Adapt to the budgets that the training environment has now, after `fit`."""

    def begin(self, truth: Truth | None) -> None:
        """Start an episode.

        Args:
            truth: given to oracles alone.
        """

    def choose(self, view: View, mask: Mask) -> int:
        """Return the number of an allowed action."""
        raise RuntimeError(f"the policy {type(self).__name__} cannot choose")

    def observe(self, view: View, action: int, quality: float) -> None:
        """Look at what came of the action."""

    def settle(self, used: Floats) -> None:
        """End an episode.

        Args:
            used: of each resource, [4].
        """


def best(values: Floats, mask: Mask) -> int:
    """Return the allowed action of the highest value; the first of equals."""
    return int(np.argmax(np.where(mask, values, -np.inf)))


def cheapest(view: View, mask: Mask, kinds: Sequence[Kind]) -> int | None:
    """Return the allowed action of these kinds with the fewest dollars; None if there is none."""
    numbers = [n for n, action in enumerate(view.actions) if action.kind in kinds and mask[n]]
    return min(numbers, key=lambda n: (view.cost[n, 1], n)) if numbers else None


def local_actions(view: View) -> Mask:
    """Return which actions are the device's alone, [actions]."""
    return np.array([action.kind is Kind.LOCAL for action in view.actions])
