"""A trained network in use: it decides, and goes on holding long-run averages to their limits."""

import numpy as np

from ptmo_secure.offload.actions import Floats, Mask
from ptmo_secure.offload.rl.lagrangian import Gains, PidMultipliers
from ptmo_secure.offload.rl.network import Network

ONLINE = Gains(kp=0.05, ki=0.02, kd=0.0, smoothing=0.9)
"""Per episode. The integral makes the mean use converge to the limit as 1 / episodes."""


class Pilot:
    """Decides by a network, at multipliers that each finished episode moves on.

    Args:
        network: of the policy.
        limits: of the mean cost of an episode, [4]; None takes those it was trained with. They may
            be changed without training again: the prices follow.
        seed: of the draws.
    """

    def __init__(self, network: Network, limits: Floats | None = None, seed: int = 0) -> None:
        self.network = network
        wanted = network.limits if limits is None else np.asarray(limits, dtype=np.float64)
        self.held = PidMultipliers(wanted, ONLINE, network.prices)
        self._rng = np.random.default_rng(seed)

    @property
    def prices(self) -> Floats:
        """Multipliers in force in the units that the network was trained with, [4]."""
        held = self.held
        factor = np.where(held.bounded, self.network.units / held.limits, 0.0)
        return np.asarray(held.value * factor)

    def act(self, features: Floats, mask: Mask) -> int:
        """Return an allowed action: the best one, or with an average to hold, one by its odds.

        A network of values always takes the best one; its prices alone hold the average.
        """
        if self.network.kind == "actor" and self.held.bounded.any():
            return self.network.draw(features, mask, self._rng)
        return self.network.best(features, mask)

    def ended(self, cost: Floats) -> None:
        """Take what an episode has used, [4]."""
        self.held.update(cost)
