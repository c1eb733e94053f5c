"""Mixing the device's next-token distribution with a cloud's of which only the top is known.

A cloud returns at most 20 log-probabilities. What it does not list, its tail, has the mass `rest`,
and is given the shape of the device's distribution there:

    p_c(v) = min(s p_e(v), p_k)        for v in the tail, s such that they sum to `rest`

p_k is the least probability listed: nothing that was left out can have more. Without that ceiling
s = rest / p_e(tail), and tokens that the device believes in get more than the cloud can have given
them. Tokens at the ceiling count as listed. Both rules below then need no more than the listed
tokens and the tail as one further atom, since within the tail p_c and p_e are proportional:

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
MAX_CAPPED = 256  # tokens of the tail at the ceiling; the others then exceed it a little


@dataclass(frozen=True, slots=True)
class CloudTop:
    """What a cloud said of one position, in the device's token ids.

    Args:
        ids: distinct token ids, int64 [k].
        logprobs: natural logarithms, at most 0, float64 [k].
        ceiling: logarithm of the probability that no token left out exceeds; 0 for none.
    """

    ids: npt.NDArray[np.int64]
    logprobs: Floats
    ceiling: float = 0.0


@dataclass(frozen=True, slots=True)
class Atoms:
    """Both distributions over the cloud's listed tokens and the tail as a whole.

    Args:
        ids: the listed tokens, those at the ceiling included, int64 [k].
        log_cloud, log_device: log-probabilities, float64 [k+1], the tail's last; [k] where no
            token is left that the device gives any probability.
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
        """Whether there are tokens that are not listed."""
        return len(self.log_cloud) > len(self.ids)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The device's distribution at one position.

    Args:
        log_p: log-probabilities, float64 [vocab].
        entropy: in nats.
        max_p: probability of the likeliest token.
        margin: nats between the likeliest token and the next.
    """

    log_p: Floats
    entropy: float
    max_p: float
    margin: float

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating]) -> "DeviceView":
        """Normalise logits, [vocab]; -inf forbids a token."""
        shifted = logits.astype(np.float64) - float(logits.max())
        weights = np.exp(shifted)
        total = float(weights.sum())
        log_p = shifted - np.log(total)
        present = weights > 0
        entropy = np.log(total) - float(weights[present] @ shifted[present]) / total
        second = float(np.partition(shifted, -2)[-2]) if len(shifted) > 1 else -np.inf
        return cls(log_p, max(float(entropy), 0.0), 1.0 / total, -second)


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
    others = device.log_p.copy()
    others[ids] = -np.inf
    highest = float(others.max())
    if highest == -np.inf:
        listed = listed - np.log(mass)
        return _atoms(device, ids, listed, device.log_p[ids])
    rest = max(1.0 - mass, MIN_REST)
    listed = listed + np.log((1.0 - rest) / mass)
    weights = np.exp(others - highest)
    capped = _capped(weights, rest, float(np.exp(top.ceiling)))
    if len(capped):
        weights[capped] = 0.0
        rest -= len(capped) * float(np.exp(top.ceiling))
        ids = np.concatenate([ids, capped])
        listed = np.concatenate([listed, np.full(len(capped), top.ceiling)])
    log_mass = highest + float(np.log(weights.sum()))
    return _atoms(
        device,
        ids,
        np.append(listed, np.log(rest)),
        np.append(device.log_p[ids], log_mass),
    )


def _atoms(
    device: DeviceView, ids: npt.NDArray[np.int64], log_cloud: Floats, log_device: Floats
) -> Atoms:
    return Atoms(ids, log_cloud, log_device, device.log_p, device.entropy, device.max_p)


def _capped(weights: Floats, rest: float, ceiling: float) -> npt.NDArray[np.int64]:
    """Return the tokens of the tail that come to stand at the ceiling, likeliest first.

    With the m likeliest at it, the next one would get s w = (rest - m ceiling) w / (sum of the
    others' w): the first m for which that is no more than the ceiling is the answer.

    Args:
        weights: proportional to the device's probabilities, 0 for listed tokens, float64 [vocab].
        rest: mass of the tail.
        ceiling: probability that none of it exceeds; one that leaves no room for `rest` is a lie
            or a rounding, and is not kept.
    """
    total = float(weights.sum())
    none = np.empty(0, dtype=np.int64)
    if rest * float(weights.max()) <= ceiling * total:
        return none
    count = min(MAX_CAPPED, int(np.count_nonzero(weights)) - 1)
    if count < 1 or (count < MAX_CAPPED and ceiling * (count + 1) <= rest):
        return none
    likeliest = np.argpartition(-weights, count - 1)[:count]
    likeliest = likeliest[np.argsort(-weights[likeliest], kind="stable")]
    w = weights[likeliest]
    left = rest - ceiling * np.arange(count)
    behind = weights.copy()
    behind[likeliest] = 0.0
    # Summed from the smallest on: what is left of a total has lost the digits of the small ones
    others = behind.sum() + np.cumsum(w[::-1])[::-1]
    over = left * w > ceiling * others
    return likeliest if over.all() else likeliest[: int(np.argmin(over))]


def complete(atoms: Atoms) -> Floats:
    """Return the cloud's completed distribution, log-probabilities [vocab]."""
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
    full: Floats
    if atoms.has_tail:
        full = atoms.log_vocabulary + (log_atoms[-1] - atoms.log_device[-1])
    else:
        full = np.full_like(atoms.log_vocabulary, -np.inf)
    full[atoms.ids] = log_atoms[:listed]
    return full
