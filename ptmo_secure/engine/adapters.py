"""LoRA adapters (Hu et al. 2022) as files and arrays: W x becomes W x + scale * B (A x).

An adapter in PEFT's format is a folder with `adapter_config.json` and `adapter_model.safetensors`.
Its rows of Q and K are in Hugging Face's half-split order, which is the engine's own.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from ptmo_secure.engine.gguf_import import LlamaConfig
from ptmo_secure.engine.low_rank import MAX_RANK, LowRankPair
from ptmo_secure.engine.paths import path_text
from ptmo_secure.engine.peft_config import MAX_BYTES, is_number, peft_config_of
from ptmo_secure.errors import InputError, ModelFormatError
from ptmo_secure.sealed.bundle import SETTINGS_NAME, WEIGHTS_NAME

_MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
ROLES = tuple(_MODULES)  # the linear layers an adapter may change
_ROLE_OF = {module: role for role, module in _MODULES.items()}
_KEY = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,3})\.(\w+\.\w+)\.lora_([AB])\.weight"
)
_HEADER_BYTES = 16 << 20  # allowance for a weights file's header
_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
_FLOAT_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """The updates of an adapter, by the engine's names: "layers.3.q".

    Args:
        pairs: at least one; every array finite float32.
    """

    pairs: Mapping[str, LowRankPair]

    def scaled(self, factor: float) -> "AdapterWeights":
        """Return the adapter with its updates multiplied by `factor`."""
        pairs = {n: replace(p, scale=p.scale * factor) for n, p in self.pairs.items()}
        return AdapterWeights(pairs)

    @property
    def roles(self) -> tuple[str, ...]:
        """The linear layers it changes, in `ROLES` order."""
        used = {split_name(name)[1] for name in self.pairs}
        return tuple(role for role in ROLES if role in used)

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(pair.rank for pair in self.pairs.values())


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The two files of an adapter, read.

    Args:
        folder: named in errors: where they lie, or the sealed file they come from.
        settings: `adapter_config.json`.
        weights: `adapter_model.safetensors`.
    """

    folder: Path
    settings: bytes
    weights: bytes


def linear_shapes(model: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Return (rows, columns) of a layer's linear layers by role."""
    q, kv = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    d_model, d_ff = model.d_model, model.d_ff
    return {
        "q": (q, d_model),
        "k": (kv, d_model),
        "v": (kv, d_model),
        "o": (d_model, q),
        "gate": (d_ff, d_model),
        "up": (d_ff, d_model),
        "down": (d_model, d_ff),
    }


def split_name(name: str) -> tuple[int, str]:
    """Return layer and role of a name like "layers.3.q"."""
    _, layer, role = name.split(".")
    return int(layer), role


def random_adapter(
    model: LlamaConfig, rank: int, seed: int, *, size: float = 0.1
) -> AdapterWeights:
    """Return a seeded adapter on all seven linear layers (benchmarks, tests).

    Args:
        rank: 1..64.
        seed: of the weights.
        size: the update's output beside that of a matrix with entries of about 1 / sqrt(columns).
    """
    random = np.random.default_rng(seed)
    pairs = {}
    for layer in range(model.n_layers):
        for role, (rows, cols) in linear_shapes(model).items():
            a = random.standard_normal((rank, cols), np.float32) * np.float32(cols**-0.5)
            b = random.standard_normal((rows, rank), np.float32) * np.float32(size)
            pairs[f"layers.{layer}.{role}"] = LowRankPair(a, b, rank**-0.5)
    return AdapterWeights(pairs)


def read_adapter(path: str | os.PathLike[str], model: LlamaConfig) -> AdapterWeights:
    """Read an adapter in PEFT's format.

    Taken: plain LoRA of rank 1 to 64 on any of the seven linear layers of any layers, in F32, F16
    or BF16, scaled by alpha / r or (rsLoRA) alpha / sqrt(r).

    Raises:
        InputError: no path, no such folder, or a file that cannot be read.
        ModelFormatError: damaged, of another kind, or made for another model; the text says which.
    """
    folder = Path(path_text("adapter", path))
    if not os.path.isdir(folder):
        raise InputError(f"adapter {str(folder)!r} is not a folder (of {SETTINGS_NAME})")
    settings = _read_bytes(folder / SETTINGS_NAME, MAX_BYTES)
    weights = _read_bytes(folder / WEIGHTS_NAME, largest_file(model))
    return adapter_of(AdapterFiles(folder, settings, weights), model)


def adapter_of(files: AdapterFiles, model: LlamaConfig) -> AdapterWeights:
    """Make an adapter of its files' bytes.

    Raises:
        ModelFormatError: as `read_adapter`.
    """
    folder = files.folder
    config = peft_config_of(folder / SETTINGS_NAME, files.settings)
    file = folder / WEIGHTS_NAME
    if len(files.weights) > largest_file(model):
        raise ModelFormatError(
            f"{file}: larger than any adapter for this model, {largest_file(model)} bytes"
        )
    shapes = linear_shapes(model)
    wanted = {
        f"layers.{layer}.{role}"
        for layer in range(model.n_layers)
        for role, module in _MODULES.items()
        if config.selects(layer, f"model.layers.{layer}.{module}")
    }
    halves: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
    for key, array in _read_tensors(file, files.weights):
        layer, role, half = _parse_key(file, key)
        name = f"layers.{layer}.{role}"
        if name not in wanted:
            raise ModelFormatError(
                f"{file}: tensor {key!a} is not among what {SETTINGS_NAME} names for this model"
            )
        rows, cols = shapes[role]
        shape = (config.rank, cols) if half == "A" else (rows, config.rank)
        if array.shape != shape:
            raise ModelFormatError(
                f"{file}: tensor {key!a} has shape {list(array.shape)}, the model and "
                f"rank {config.rank} ask for {list(shape)}"
            )
        halves.setdefault(name, {})[half] = array
    for name in sorted(wanted):
        for half in "AB":
            if half not in halves.get(name, {}):
                raise ModelFormatError(f"{file}: lora_{half} of {name} is missing")
    if not wanted:
        raise ModelFormatError(f"{folder}: it changes no linear layer of this model")
    return AdapterWeights(
        {name: LowRankPair(halves[name]["A"], halves[name]["B"], config.scale) for name in halves}
    )


def check_fits(weights: AdapterWeights, model: LlamaConfig) -> None:
    """Raise InputError unless every update has a place and shape in the model and is finite."""
    shapes = linear_shapes(model)
    if not weights.pairs:
        raise InputError("it changes nothing")
    for name, pair in weights.pairs.items():
        found = re.fullmatch(r"layers\.(0|[1-9][0-9]{0,3})\.(\w+)", name)
        if found is None or int(found[1]) >= model.n_layers or found[2] not in shapes:
            raise InputError(f"{name!a} is not a linear layer of this model")
        if not (isinstance(pair.a, np.ndarray) and isinstance(pair.b, np.ndarray)):
            raise InputError(f"{name}: A and B are not arrays")
        if not is_number(pair.scale):
            raise InputError(f"{name}: the scale {pair.scale!r} is no number or not finite")
        rows, cols = shapes[found[2]]
        if pair.a.ndim != 2 or not 1 <= pair.rank <= MAX_RANK:
            raise InputError(f"{name}: A has shape {list(pair.a.shape)}, ranks are 1..{MAX_RANK}")
        if pair.a.shape != (pair.rank, cols) or pair.b.shape != (rows, pair.rank):
            raise InputError(
                f"{name}: A {list(pair.a.shape)} and B {list(pair.b.shape)} do not fit a matrix "
                f"of {rows} x {cols}"
            )
        if pair.a.dtype != np.float32 or pair.b.dtype != np.float32:
            raise InputError(f"{name}: weights are {pair.a.dtype} and {pair.b.dtype}, not float32")
        if not (np.isfinite(pair.a).all() and np.isfinite(pair.b).all()):
            raise InputError(f"{name}: a weight is not finite")


def largest_file(model: LlamaConfig) -> int:
    """Return the bytes that the largest adapter for this model can take."""
    per_rank = sum(rows + cols for rows, cols in linear_shapes(model).values())
    return MAX_RANK * per_rank * model.n_layers * 4 + _HEADER_BYTES


def _read_bytes(file: Path, limit: int) -> bytes:
    """Return a file's bytes, one more than `limit` at most."""
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(file)!r}: {error.strerror}") from None


def _read_tensors(file: Path, data: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    try:
        tensors = _deserialize(data)
    except safetensors.SafetensorError as error:
        raise ModelFormatError(f"{file}: {' '.join(str(error).split())[:200]}") from None
    for key, tensor in tensors:
        kind, raw = str(tensor["dtype"]), tensor["data"]
        if kind not in _FLOAT_TYPES:
            raise ModelFormatError(f"{file}: tensor {key!a} is {kind}, not one of F32, F16, BF16")
        array = np.frombuffer(raw, _FLOAT_TYPES[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ModelFormatError(f"{file}: tensor {key!a}: a weight is not finite")
        yield key, array


def _parse_key(file: Path, key: str) -> tuple[int, str, str]:
    """Return layer, role and "A" or "B" of a tensor's name."""
    found = _KEY.fullmatch(key)
    if found is None or found[2] not in _ROLE_OF:
        raise ModelFormatError(
            f"{file}: tensor {key[:120]!a} is not a LoRA weight of one of the linear layers "
            f"{', '.join(_MODULES.values())}"
        )
    return int(found[1]), _ROLE_OF[found[2]], found[3]
