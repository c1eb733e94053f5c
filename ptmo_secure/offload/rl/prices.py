"""Multipliers at work: they count the costs of episodes, and are shown to the environment."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptmo_secure.offload.actions import RESOURCES, Floats
from ptmo_secure.offload.rl.lagrangian import PidMultipliers

Trace = list[dict[str, list[float]]]
"""Multipliers, and the mean costs that moved them: one entry for each time they moved."""


@dataclass(slots=True)
class Prices:
    """Counts what episodes cost, moves the multipliers by their mean, and shows them.

    Args:
        held: the multipliers.
        show: tells the environment the multipliers of its next episodes.
        units: what counts as 1 for each cost, [4]: the limit, where there is one.
        episodes: how many have to end before the multipliers move again. The multipliers must be
            slower than the learner, or both swing.
        trace: so far.
    """

    held: PidMultipliers
    show: Callable[[Floats], None]
    units: Floats
    episodes: int = 64
    trace: Trace = field(default_factory=list)
    _running: list[Floats] = field(default_factory=list)
    _ended: deque[Floats] = field(default_factory=deque)

    def count(self, infos: Sequence[dict[str, Any]], dones: "np.ndarray[Any, Any]") -> None:
        """Add the costs of one step of each environment."""
        while len(self._running) < len(infos):
            self._running.append(np.zeros(len(RESOURCES)))
        for place, (info, done) in enumerate(zip(infos, dones, strict=True)):
            self._running[place] = self._running[place] + info["cost"]
            if done:
                self._ended.append(self._running[place])
                self._running[place] = np.zeros(len(RESOURCES))

    def settle(self) -> None:
        """Move the multipliers by the episodes that ended since, once they are enough."""
        if len(self._ended) < self.episodes:
            return
        mean = np.mean(self._ended, axis=0)
        self._ended.clear()
        value = self.held.update(mean)
        self.trace.append({"multipliers": value.tolist(), "mean_cost": mean.tolist()})
        self.show(value)

    def named(self) -> dict[str, float]:
        """The multipliers of the resources that have a limit, by name."""
        pairs = zip(RESOURCES, self.held.value, self.held.bounded, strict=True)
        return {name: float(value) for name, value, bounded in pairs if bounded}
