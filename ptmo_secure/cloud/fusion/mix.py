"""Mixing the device's next-token distribution with a cloud's of which only the top is known.

A cloud returns at most 20 log-probabilities. What it does not list, its tail, has the mass `rest`,
and is given the shape of the device's distribution there:

    p_c(v) = rest * p_e(v) / p_e(tail)        for v in the tail

Both rules below then need no more than the listed tokens and the tail as one further atom, since
within the tail p_c and p_e are proportional:

    product of experts   p ~ p_c^(1-w) p_e^w      (Hinton 2002; as logits in CoGenesis, 2403.03129)
    linear               p = (1-w) p_c + w p_e

w in [0, 1] is the device's share: 1 is the device alone, 0 the cloud alone.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ptmo_secure.errors import InputError

Floats = npt.NDArray[np.float64]
Rule = Literal["product", "linear"]

RULES: tuple[str, ...] = get_args(Rule)
MIN_REST = 1e-6  # servers round: a listed mass of 1.0000 must not forbid every other token


@dataclass(frozen=True, slots=True)
class CloudTop:
    """What a cloud said of one position, in the device's token ids.

    Args:
        ids: distinct token ids, int64 [k].
        logprobs: natural logarithms, at most 0, float64 [k].
    """

    ids: npt.NDArray[np.int64]
    logprobs: Floats


@dataclass(frozen=True, slots=True)
class Atoms:
    """Both distributions over the cloud's listed tokens and the tail as a whole.

    Args:
        ids: the listed tokens, int64 [k].
        log_cloud, log_device: log-probabilities, float64 [k+1], the tail's last; [k] where the
            cloud listed the whole vocabulary.
        log_vocabulary: the device's log-probabilities of all tokens, float64 [vocab].
        device_entropy: in nats.
        device_max_p: probability of the device's likeliest token.
    """

    ids: npt.NDArray[np.int64]
    log_cloud: Floats
    log_device: Floats
    log_vocabulary: Floats
    device_entropy: float
    device_max_p: float

    @property
    def has_tail(self) -> bool:
        """Whether there are tokens that the cloud did not list."""
        return len(self.log_cloud) > len(self.ids)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The device's distribution at one position.

    Args:
        log_p: log-probabilities, float64 [vocab].
        entropy: in nats.
        max_p: probability of the likeliest token.
    """

    log_p: Floats
    entropy: float
    max_p: float

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating]) -> "DeviceView":
        """Normalise logits, [vocab]; -inf forbids a token."""
        shifted = logits.astype(np.float64) - float(logits.max())
        weights = np.exp(shifted)
        total = float(weights.sum())
        log_p = shifted - np.log(total)
        present = weights > 0
        entropy = np.log(total) - float(weights[present] @ shifted[present]) / total
        return cls(log_p, max(float(entropy), 0.0), 1.0 / total)


def join(device: DeviceView, top: CloudTop) -> Atoms:
    """Lay both distributions side by side over the cloud's listed tokens and its tail.

    Args:
        device: of V tokens.
        top: 1..V tokens; its masses are scaled down where they sum to more than 1 - MIN_REST.

    Raises:
        InputError: no token, an id twice or outside the vocabulary, or a log-probability that is
            no number.
    """
    ids, listed = top.ids, top.logprobs
    size = len(device.log_p)
    if not 0 < len(ids) <= size or len(ids) != len(listed):
        raise InputError(f"{len(ids)} token ids and {len(listed)} log-probabilities do not fit")
    if ids.min() < 0 or ids.max() >= size or len(np.unique(ids)) != len(ids):
        raise InputError(f"the cloud's tokens are not distinct ids in 0..{size - 1}")
    if not np.isfinite(listed).all():
        raise InputError("a log-probability of the cloud's is no finite number")
    mass = float(np.exp(listed).sum())
    on_device = device.log_p[ids]
    if len(ids) == size:
        log_cloud, log_device = listed - np.log(mass), on_device
    else:
        rest = max(1.0 - mass, MIN_REST)
        listed = listed + np.log((1.0 - rest) / mass)
        log_cloud = np.append(listed, np.log(rest))
        log_device = np.append(on_device, _log_mass_without(device.log_p, ids))
    return Atoms(ids, log_cloud, log_device, device.log_p, device.entropy, device.max_p)


def _log_mass_without(log_p: Floats, ids: npt.NDArray[np.int64]) -> float:
    """Return the logarithm of the mass of all tokens but `ids`, exact however small it is."""
    others = log_p.copy()
    others[ids] = -np.inf
    highest = float(others.max())
    if highest == -np.inf:
        return -np.inf
    return highest + float(np.log(np.exp(others - highest).sum()))


def complete(atoms: Atoms) -> Floats:
    """Return the cloud's completed distribution, log-probabilities [vocab].

    A tail that the device gives no probability at all stays without: its mass is not placed.
    """
    return expand(atoms, atoms.log_cloud)


def mix(log_cloud: Floats, log_device: Floats, weight: float, rule: Rule) -> Floats:
    """Mix two distributions over the same outcomes.

    Args:
        log_cloud, log_device: log-probabilities, float64 [n].
        weight: the device's share w, in [0, 1].
        rule: "product" or "linear".

    Returns:
        Log-probabilities, float64 [n], normalised.

    Raises:
        InputError: the weight is out of range, or the two have no outcome in common.
    """
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"the device's share is {weight!r}, not in 0..1")
    if weight in (0.0, 1.0):  # 0 * -inf has no value
        mixed = log_device if weight else log_cloud
    elif rule == "product":
        mixed = (1.0 - weight) * log_cloud + weight * log_device
    else:
        mixed = np.logaddexp(np.log1p(-weight) + log_cloud, np.log(weight) + log_device)
    highest = float(mixed.max())
    if highest == -np.inf:
        raise InputError("the two distributions have no outcome in common")
    return np.asarray(mixed - (highest + np.log(np.exp(mixed - highest).sum())))


def fuse(atoms: Atoms, weight: float, rule: Rule) -> Floats:
    """Return the fused distribution over the vocabulary, log-probabilities [vocab]."""
    return expand(atoms, mix(atoms.log_cloud, atoms.log_device, weight, rule))


def expand(atoms: Atoms, log_atoms: Floats) -> Floats:
    """Spread log-probabilities of atoms over the vocabulary, the tail's in the device's shape."""
    listed = len(atoms.ids)
    if not atoms.has_tail:
        full = np.empty_like(atoms.log_vocabulary)
    elif atoms.log_device[-1] == -np.inf:
        full = np.full_like(atoms.log_vocabulary, -np.inf)
    else:
        full = atoms.log_vocabulary + (log_atoms[-1] - atoms.log_device[-1])
    full[atoms.ids] = log_atoms[:listed]
    return full
