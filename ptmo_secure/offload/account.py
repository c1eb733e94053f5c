"""A hard budget of epsilon over all episodes of a user, with composition."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import RISK, Floats, Mask, View
from ptmo_secure.privacy.budget import compose

DELTA = 1e-6


def composed(costs: Sequence[float]) -> float:
    """Return what costs come to together, as an `EpsilonAccount` counts them."""
    return compose(costs, DELTA)


class EpsilonAccount:
    """Counts what turns disclose, and says which costs still fit.

    What counts as spent is the smaller of basic and advanced composition, as in `privacy.budget`:
    a few large costs add up by the first, hundreds of small ones by the second. A session's own eps
    is a hard budget of the environment, which adds costs up as they are; this one lasts longer.

    Args:
        epsilon: that may be spent, above 0.
        delta: of advanced composition, in (0, 1).

    Security: DP-style accounting of expected disclosures, and no guarantee of differential privacy.
    """

    def __init__(self, epsilon: float, delta: float = DELTA) -> None:
        if not (np.isfinite(epsilon) and epsilon > 0):
            raise InputError(f"epsilon is {epsilon}: it is finite and above 0")
        if not 0 < delta < 1:
            raise InputError(f"delta is {delta}: it is between 0 and 1")
        self.epsilon, self._delta = epsilon, delta
        self._costs: list[float] = []

    @property
    def spent(self) -> float:
        """Epsilon that counts as spent."""
        return compose(self._costs, self._delta)

    def fits(self, costs: Floats) -> Mask:
        """Return which costs could be spent next; 0 always can, what is no number never.

        Args:
            costs: of the actions, [actions].
        """
        found = np.zeros(len(costs), dtype=bool)
        for number, cost in enumerate(costs):
            if cost == 0:
                found[number] = True
            elif cost > 0 and np.isfinite(cost):
                found[number] = compose([*self._costs, float(cost)], self._delta) <= self.epsilon
        return found

    def held(self, view: View) -> View:
        """Return the view with no more risk left than the dearest action that fits here.

        The gate then forbids the others, whoever chooses.
        """
        risks = view.cost[:, RISK]
        fits = self.fits(risks)
        if fits.all():
            return view
        remaining = view.remaining.copy()
        remaining[RISK] = min(remaining[RISK], risks[fits].max(initial=0.0))
        return replace(view, remaining=remaining)

    def spend(self, cost: float) -> None:
        """Count a cost.

        Raises:
            InputError: it is negative or no number, or does not fit.
        """
        if not self.fits(np.array([cost]))[0]:
            raise InputError(f"a cost of {cost} does not fit what is left of epsilon")
        if cost:
            self._costs.append(float(cost))
