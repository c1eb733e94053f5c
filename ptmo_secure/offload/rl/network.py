"""A small network that decides in NumPy, and the file it is kept in."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import RESOURCES, Floats, Mask
from ptmo_secure.offload.rl.features import Layout

MAX_FILE_BYTES = 5_000_000
_FORMAT = 1
_CLIP = 10.0


@dataclass(slots=True)
class Network:
    """tanh layers over normalised features, on top of what is known of each action anyway.

        x = [clip((body - shift) * scale), known, mask, prices / (1 + prices)]
        h = tanh(W_n ... tanh(W_1 x + b_1) ... + b_n),  y = W h + b + start known

    y holds for each action its worth by the reward, then by each resource's cost / unit. An action
    is preferred by y_reward - sum over k of price_k y_k: it falls as what it costs gets dear.

    Args:
        layout: of the features.
        kind: "actor" draws from the softmax of its preferences, "values" takes the best one.
        shift, scale: of the body, [body].
        layers: weights [out, in] and biases [out] of the tanh layers.
        head: weights and biases of the last layer.
        start: weight of what is known.
        prices: multipliers to begin with, [4].
        units: what counts as 1 for each cost, [4].
        limits: of the mean cost of an episode, [4]; infinity is none.
        card: how it was made; plain JSON.
    """

    layout: Layout
    kind: str
    shift: Floats
    scale: Floats
    layers: list[tuple[Floats, Floats]]
    head: tuple[Floats, Floats]
    start: float
    prices: Floats
    units: Floats
    limits: Floats
    card: dict[str, Any] = field(default_factory=dict)

    def outputs(self, features: Floats) -> Floats:
        """Return y for one vector of features, [size] -> [1 + 4, actions]."""
        layout = self.layout
        known = features[layout.known]
        prices = features[layout.prices]
        body = np.clip((features[: layout.body] - self.shift) * self.scale, -_CLIP, _CLIP)
        hidden = np.concatenate([body, known, features[layout.mask], prices / (1 + prices)])
        for weights, bias in self.layers:
            hidden = np.tanh(weights @ hidden + bias)
        weights, bias = self.head
        return np.asarray(weights @ hidden + bias + self.start * known).reshape(-1, layout.actions)

    def preferences(self, features: Floats) -> Floats:
        """Return y_reward - sum over k of price_k y_k, [actions]; see the class."""
        table = self.outputs(features)
        return np.asarray(table[0] - features[self.layout.prices] @ table[1:])

    def best(self, features: Floats, mask: Mask) -> int:
        """Return the allowed action of the highest preference."""
        return int(np.argmax(np.where(mask, self.preferences(features), -np.inf)))

    def draw(self, features: Floats, mask: Mask, rng: np.random.Generator) -> int:
        """Draw an allowed action by the softmax of the preferences."""
        wanted = np.where(mask, self.preferences(features), -np.inf)
        odds = np.exp(wanted - wanted.max())
        return int(rng.choice(len(odds), p=odds / odds.sum()))

    def save(self, path: Path) -> None:
        """Write one .npz file; nothing in it is ever executed.

        Raises:
            InputError: it would be larger than a policy may be, or cannot be written.
        """
        arrays: dict[str, Any] = {"shift": self.shift, "scale": self.scale}
        for number, (weights, bias) in enumerate([*self.layers, self.head]):
            arrays[f"weights{number}"], arrays[f"bias{number}"] = weights, bias
        arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        for name in ("prices", "units", "limits"):
            arrays[name] = getattr(self, name)
        about = {
            "format": _FORMAT,
            "kind": self.kind,
            "body": self.layout.body,
            "actions": self.layout.actions,
            "start": self.start,
            "card": self.card,
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        if packed.tell() > MAX_FILE_BYTES:
            raise InputError(f"{path}: a policy of {packed.tell()} bytes is too large")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(packed.getvalue())
            part.replace(path)
        except OSError as failure:
            raise InputError(f"{path}: {failure.strerror}") from None


def load_network(path: Path) -> Network:
    """Read what `Network.save` wrote.

    Raises:
        InputError: the file is missing, too large, or no policy.

    Security: arrays and JSON alone; pickled objects are refused.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than a policy")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(bytes(arrays["about"]))
        return _network(arrays, about)
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror or 'cannot be read'}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a policy of this program") from None


def _network(arrays: dict[str, Any], about: dict[str, Any]) -> Network:
    layout = Layout(int(about["body"]), int(about["actions"]))
    count = sum(name.startswith("weights") for name in arrays)
    stack = [
        (arrays[f"weights{n}"].astype(np.float64), arrays[f"bias{n}"].astype(np.float64))
        for n in range(count)
    ]
    width = layout.size
    for weights, bias in stack[:-1]:
        if weights.shape != (len(bias), width):
            raise ValueError("layers do not fit")
        width = len(bias)
    outputs = layout.actions * (1 + len(RESOURCES))
    weights, bias = stack[-1]
    if weights.shape != (outputs, width) or bias.shape != (outputs,):
        raise ValueError("the head does not fit")
    if about["format"] != _FORMAT or about["kind"] not in ("actor", "values"):
        raise ValueError("another format")
    every = [arrays[name] for name in arrays if name not in ("about", "limits")]
    if not all(np.isfinite(array).all() for array in every):
        raise ValueError("a weight is no number")
    named = {name: arrays[name].astype(np.float64) for name in ("prices", "units", "limits")}
    if any(array.shape != (len(RESOURCES),) for array in named.values()):
        raise ValueError("prices, units or limits do not fit")
    return Network(
        layout,
        about["kind"],
        arrays["shift"].astype(np.float64).reshape(layout.body),
        arrays["scale"].astype(np.float64).reshape(layout.body),
        stack[:-1],
        stack[-1],
        float(about["start"]),
        card=about["card"],
        **named,
    )
