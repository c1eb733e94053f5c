"""What a network sees of a turn: one vector for every environment, with fixed places at its end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import RESOURCES, Floats, Mask, View

_TOP = 1e3  # larger than any number of an environment; tames broken ones
_DEAREST = 2.0  # a cost counts at most as twice what is left


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a feature vector: body, known worths, mask, prices.

    Args:
        body: numbers whose meaning is the environment's own; they are normalised by a network.
        actions: of the environment.
    """

    body: int
    actions: int

    @property
    def size(self) -> int:
        """Length of a vector."""
        return self.body + (2 + len(RESOURCES)) * self.actions + len(RESOURCES)

    @property
    def known(self) -> slice:
        """What is known of each action: its advised reward, then each of its costs / unit."""
        return slice(self.body, self.body + (1 + len(RESOURCES)) * self.actions)

    @property
    def mask(self) -> slice:
        """1 for each action that the gate allows."""
        return slice(self.known.stop, self.known.stop + self.actions)

    @property
    def prices(self) -> slice:
        """The multipliers in force, [4]: reward per cost / unit."""
        return slice(self.mask.stop, self.size)


def layout_of(view: View) -> Layout:
    """Return the layout of the vectors of an environment, given any view of it."""
    actions = len(view.actions)
    return Layout(len(view.observation) + actions * (len(RESOURCES) + 1), actions)


def describe(
    view: View, advised: Floats, mask: Mask, prices: Floats, units: Floats
) -> "NDArray[np.float32]":
    """Return the feature vector of a turn, float32.

    The body holds the environment's observation, each action's cost as a share of what is left of
    each budget (0 without a budget, at most 2), and the estimated quality of each action.

    Args:
        view: of the turn; nothing that only an oracle knows is in it.
        advised: reward of each action as an `Advice` expects it, [actions].
        mask: what the gate allows.
        prices: multipliers in force, [4].
        units: what counts as 1 for each cost, [4].

    Security: holds levels, counts and numbers; no text.
    """
    left = np.maximum(view.remaining, 1e-9)
    shares = np.where(np.isfinite(view.remaining), np.minimum(view.cost / left, _DEAREST), 0.0)
    known = np.vstack([advised, (view.cost / units).T]) * mask
    parts = [view.observation, shares.ravel(), view.estimate, known.ravel(), mask, prices]
    vector = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    tame = np.nan_to_num(np.clip(vector, -_TOP, _TOP), nan=0.0)
    return np.asarray(tame, dtype=np.float32)
