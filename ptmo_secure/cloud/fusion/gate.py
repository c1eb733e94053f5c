"""How much the device counts at a position: its share w in [0, 1]."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ptmo_secure.cloud.fusion.mix import Atoms, Floats
from ptmo_secure.errors import InputError

FEATURES = ("device entropy", "device max-p", "cloud entropy", "cloud top-1", "overlap")
MAX_PARAMETERS = 1000
_MAX_FILE_BYTES = 65_536


class Weight(Protocol):
    """A rule for the device's share."""

    def share(self, atoms: Atoms) -> float:
        """Return w in [0, 1] for one position."""


def features(atoms: Atoms) -> Floats:
    """Return what a gate sees of a position, float64 [5], in the order of `FEATURES`.

    Entropies are in nats, the cloud's over its listed tokens and the tail as one; the overlap is
    the sum over the listed tokens of the smaller of both probabilities.
    """
    cloud = np.exp(atoms.log_cloud)
    present = cloud > 0
    listed = len(atoms.ids)
    overlap = np.minimum(cloud[:listed], np.exp(atoms.log_device[:listed])).sum()
    return np.array(
        [
            atoms.device_entropy,
            atoms.device_max_p,
            -float(cloud[present] @ atoms.log_cloud[present]),
            float(cloud[:listed].max()),
            float(overlap),
        ]
    )


@dataclass(frozen=True, slots=True)
class FixedWeight:
    """The same share everywhere."""

    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise InputError(f"the device's share is {self.weight!r}, not in 0..1")

    def share(self, atoms: Atoms) -> float:
        """Return the constant."""
        return self.weight


@dataclass(frozen=True, slots=True)
class EntropyWeight:
    """The surer of the two counts for more: w = H_cloud / (H_cloud + H_device).

    It has no parameters. Both entropies are over the same outcomes: the cloud's listed tokens and
    the tail as one.
    """

    def share(self, atoms: Atoms) -> float:
        """Return w; 1/2 where both are certain."""
        cloud, device = _entropy(atoms.log_cloud), _entropy(atoms.log_device)
        return 0.5 if cloud + device < 1e-12 else cloud / (cloud + device)


@dataclass(frozen=True, slots=True)
class LearnedWeight:
    """A gate of a handful of parameters: w = sigmoid(v tanh(W x + b) + u x + c).

    x are the `features`, shifted and scaled; without hidden units it is a logistic gate. Made by
    `training.train_gate`, on the device, from text that stays there.

    Args:
        shift, scale: of the features, [5].
        hidden: W and b, [h, 5] and [h]; h may be 0.
        output: v, [h].
        direct: u, [5].
        bias: c.
    """

    shift: Floats
    scale: Floats
    hidden: tuple[Floats, Floats]
    output: Floats
    direct: Floats
    bias: float

    def __post_init__(self) -> None:
        weights, bias = self.hidden
        n, h = len(FEATURES), len(bias)
        shapes = (self.shift.shape, self.scale.shape, self.direct.shape, self.output.shape)
        if weights.shape != (h, n) or shapes != ((n,), (n,), (n,), (h,)):
            raise InputError("the gate's arrays do not fit together")
        if self.parameters > MAX_PARAMETERS:
            raise InputError(f"a gate of {self.parameters} parameters, more than {MAX_PARAMETERS}")
        if not all(np.isfinite(array).all() for array in self.arrays().values()):
            raise InputError("a parameter of the gate is no finite number")

    @property
    def parameters(self) -> int:
        """Numbers in the gate, those that scale its features included."""
        return sum(array.size for array in self.arrays().values())

    def share(self, atoms: Atoms) -> float:
        """Return w in (0, 1) for one position."""
        x = (features(atoms) - self.shift) * self.scale
        weights, bias = self.hidden
        score = self.output @ np.tanh(weights @ x + bias) + self.direct @ x + self.bias
        return float(1.0 / (1.0 + np.exp(-np.clip(score, -30.0, 30.0))))

    def arrays(self) -> dict[str, Floats]:
        """Return the parameters by name."""
        return {
            "shift": self.shift,
            "scale": self.scale,
            "hidden": self.hidden[0],
            "hidden_bias": self.hidden[1],
            "output": self.output,
            "direct": self.direct,
            "bias": np.array([self.bias]),
        }

    def save(self, path: Path) -> None:
        """Write an .npz file, arrays alone.

        Raises:
            InputError: the path cannot be written to.
        """
        packed = io.BytesIO()
        arrays: dict[str, Any] = self.arrays()
        np.savez_compressed(packed, **arrays)
        try:
            path.write_bytes(packed.getvalue())
        except OSError as failure:
            raise InputError(f"{path}: {failure.strerror}") from None


def load_gate(path: Path) -> LearnedWeight:
    """Read what `LearnedWeight.save` wrote.

    Raises:
        InputError: the file is missing, too large, or no gate.

    Security: arrays alone; pickled objects are refused.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError("larger than a gate")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float64) for name in stored.files}
        return LearnedWeight(
            shift=arrays["shift"],
            scale=arrays["scale"],
            hidden=(arrays["hidden"], arrays["hidden_bias"]),
            output=arrays["output"],
            direct=arrays["direct"],
            bias=float(arrays["bias"].item()),
        )
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror or 'cannot be read'}") from None
    except InputError as failure:
        raise InputError(f"{path}: {failure}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a gate of this program") from None


def _entropy(log_p: Floats) -> float:
    p = np.exp(log_p)
    present = p > 0
    return max(0.0, -float(p[present] @ log_p[present]))
