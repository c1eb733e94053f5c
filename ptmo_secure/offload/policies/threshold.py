"""A fixed threshold on what the cloud is expected to gain."""

import numpy as np

from ptmo_secure.offload.actions import Mask, View
from ptmo_secure.offload.policies.base import Policy, best, local_actions

GAIN = 0.1


class Threshold(Policy):
    """The cloud where the view's estimate of it is at least 0.1 above the local one."""

    name = "threshold"

    def choose(self, view: View, mask: Mask) -> int:
        """The best cloud action if it is that much better, else local."""
        here = local_actions(view)
        away = mask & ~here
        if not away.any() or not (mask & here).any():
            return best(view.estimate, mask)
        cloud = best(view.reward(view.estimate), away)
        gain = view.estimate[cloud] - np.max(view.estimate[here])
        return cloud if gain >= GAIN else best(view.estimate, mask & here)
