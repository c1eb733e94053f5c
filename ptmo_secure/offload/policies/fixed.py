"""Policies that look at nothing but what is allowed: a coin, local only, cloud only, a rule."""

import numpy as np

from ptmo_secure.offload.actions import Kind, Mask, View
from ptmo_secure.offload.policies.base import Policy, best, cheapest
from ptmo_secure.types import Level

CLOUD_FIRST = (Kind.CLOUD, Kind.MASKED, Kind.HYBRID, Kind.ESCALATE)


class RandomPolicy(Policy):
    """Every allowed action alike."""

    name = "random"

    def choose(self, view: View, mask: Mask) -> int:
        """Draw one."""
        return int(self.rng.choice(np.flatnonzero(mask)))


class LocalOnly(Policy):
    """The device answers."""

    name = "local-only"

    def choose(self, view: View, mask: Mask) -> int:
        """The local action, as long as it is allowed."""
        local = cheapest(view, mask, (Kind.LOCAL,))
        return best(-view.cost[:, 0], mask) if local is None else local


class CloudOnly(Policy):
    """The cloud answers whenever it may, told as much as it may be."""

    name = "cloud-only"

    def choose(self, view: View, mask: Mask) -> int:
        """The first kind of cloud answer that is allowed, with text alone."""
        for kind in CLOUD_FIRST:
            action = cheapest(view, mask, (kind,))
            if action is not None:
                return action
        return int(np.flatnonzero(mask)[0])


class SensitiveLocal(Policy):
    """Sensitive turns stay, the others go; how gateways route by their PII detectors."""

    name = "rule"

    def choose(self, view: View, mask: Mask) -> int:
        """Cloud for PUBLIC turns, else local."""
        kinds = (Kind.CLOUD,) if view.level is Level.PUBLIC else (Kind.LOCAL,)
        action = cheapest(view, mask, kinds)
        if action is None:
            action = cheapest(view, mask, (Kind.LOCAL,))
        return int(np.flatnonzero(mask)[0]) if action is None else action
