"""Lagrange multipliers for long-run averages, held by a PID controller (Stooke et al. 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import RESOURCES, Floats


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains of the controller, all for relative errors.

    Args:
        kp, ki, kd: proportional, integral and derivative gain, at least 0; `ki` above 0.
        smoothing: weight of the past in the smoothed error and cost, in [0, 1).
        top: no multiplier exceeds it, above 0.
    """

    kp: float = 0.2
    ki: float = 0.05
    kd: float = 0.1
    smoothing: float = 0.8
    top: float = 20.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"gain {item.name} is {value}: it is finite and at least 0")
        if self.ki == 0 or self.top == 0 or self.smoothing >= 1:
            raise InputError("ki and top are above 0, and smoothing is below 1")


@dataclass(slots=True)
class PidMultipliers:
    """One multiplier for each resource of which a long-run average is limited.

    With the mean cost J_k of an episode and its limit d_k, e_k = J_k / d_k - 1 and

        I <- clip(I + ki e, 0, top)
        lambda = clip(kp E[e] + I + kd max(0, E[J / d] - E[J / d] before), 0, top)

    where E[.] is exponential smoothing. The integral is clipped on both sides and stands still
    while the multiplier sits at `top` and the error would push it on (anti-windup), so that it
    turns round at once when the error does. A resource without a limit has the multiplier 0.

    A multiplier is the price of using up one limit: reward per (cost / limit). The derivative of
    the optimal reward by the limit itself is lambda_k / d_k.

    Args:
        limits: of the mean cost of an episode, [4] in the units of `RESOURCES`; infinity is none.
        gains: of the controller.
        start: multipliers to begin with, [4].
    """

    limits: Floats
    gains: Gains = field(default_factory=Gains)
    start: Floats | None = None
    value: Floats = field(init=False)
    _integral: Floats = field(init=False)
    _error: Floats | None = field(init=False, default=None)
    _cost: Floats | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.limits = np.asarray(self.limits, dtype=np.float64)
        if self.limits.shape != (len(RESOURCES),) or not (self.limits > 0).all():
            raise InputError(
                f"limits {self.limits.tolist()}: one for each of {', '.join(RESOURCES)}, above 0"
            )
        begin = np.zeros(len(RESOURCES)) if self.start is None else np.asarray(self.start, float)
        self._integral = np.clip(np.where(self.bounded, begin, 0.0), 0.0, self.gains.top)
        self.value = self._integral.copy()

    @property
    def bounded(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
        """Which resources have a limit, [4]."""
        return np.asarray(np.isfinite(self.limits))

    def relative(self, cost: Floats) -> Floats:
        """Return a cost in units of the limits; 0 where there is none, [..., 4]."""
        return np.asarray(np.where(self.bounded, cost / self.limits, 0.0))

    def update(self, mean_cost: Floats) -> Floats:
        """Take the mean cost of the latest episodes, and return the new multipliers, [4].

        Args:
            mean_cost: of an episode, [4], at least 0. A cost that is not a number says nothing
                about its resource, and leaves everything as it is.
        """
        if not np.isfinite(np.where(self.bounded, mean_cost, 0.0)).all():
            return self.value
        gains, cost = self.gains, self.relative(np.asarray(mean_cost, dtype=np.float64))
        error = np.where(self.bounded, cost - 1.0, 0.0)
        keep = gains.smoothing
        smooth = error if self._error is None else keep * self._error + (1 - keep) * error
        trend = cost if self._cost is None else keep * self._cost + (1 - keep) * cost
        rise = np.zeros_like(cost) if self._cost is None else np.maximum(0.0, trend - self._cost)
        stuck = (self.value >= gains.top) & (error > 0)
        grown = np.clip(self._integral + gains.ki * error, 0.0, gains.top)
        self._integral = np.where(stuck, self._integral, grown)
        held = gains.kp * smooth + self._integral + gains.kd * rise
        self.value = np.where(self.bounded, np.clip(held, 0.0, gains.top), 0.0)
        self._error, self._cost = smooth, trend
        return self.value

    def state(self) -> dict[str, list[float] | None]:
        """What a checkpoint keeps."""
        listed = {"value": self.value, "integral": self._integral}
        smoothed = {"error": self._error, "cost": self._cost}
        return {
            **{name: array.tolist() for name, array in listed.items()},
            **{name: None if a is None else a.tolist() for name, a in smoothed.items()},
        }

    def restore(self, state: dict[str, list[float] | None]) -> None:
        """Go on where `state` was taken."""
        self.value = np.array(state["value"], dtype=np.float64)
        self._integral = np.array(state["integral"], dtype=np.float64)
        self._error = None if state["error"] is None else np.array(state["error"])
        self._cost = None if state["cost"] is None else np.array(state["cost"])


def limits_of(wanted: Mapping[str, float]) -> tuple[float, ...]:
    """Return limits by the names of `RESOURCES`; the others are endless.

    Raises:
        InputError: there is no such resource, or a limit is not finite and above 0.
    """
    for name, value in wanted.items():
        if name not in RESOURCES or not 0 < value < np.inf:
            names = ", ".join(RESOURCES)
            raise InputError(f"limit {name}={value:g}: one of {names}, finite and above 0")
    found: Floats = np.array([wanted.get(name, np.inf) for name in RESOURCES])
    return tuple(float(value) for value in found)
