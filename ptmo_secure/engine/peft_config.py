"""`adapter_config.json` of PEFT: what this engine takes of it, and what it must refuse.

A setting that would change the result and that the engine does not compute is refused by name;
so is one it has never heard of, unless it is switched off.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from ptmo_secure.engine.low_rank import MAX_RANK
from ptmo_secure.errors import ModelFormatError

MAX_BYTES = 1 << 20
# Of the training, or of how the file came about: without effect on the result.
_IRRELEVANT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "megatron_core",  # read beside megatron_config alone
        "peft_version",
        "qalora_group_size",  # read beside use_qalora alone
        "revision",
        "runtime_config",
        "task_type",
    }
)
_READ = frozenset(
    {
        "peft_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
        "bias",
        "init_lora_weights",
    }
)
# Starting points of the training that leave the base weights alone.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Rank, scale and targets of a plain LoRA adapter."""

    rank: int
    scale: float  # alpha / r, or alpha / sqrt(r) under rsLoRA (Kalajdzievski 2023)
    targets: tuple[str, ...]  # module names, or the ends of their paths
    layers: tuple[int, ...] | None  # None: all

    def selects(self, layer: int, module: str) -> bool:
        """Whether it changes a layer's module, "model.layers.3.self_attn.q_proj"."""
        if self.layers is not None and layer not in self.layers:
            return False
        return any(module == t or module.endswith(f".{t}") for t in self.targets)


def peft_config_of(file: Path, raw: bytes) -> PeftConfig:
    """Check the settings in a file's first bytes.

    Args:
        file: named in errors.
        raw: its content; one byte more than `MAX_BYTES` of it is enough.

    Raises:
        ModelFormatError: it is not JSON, not LoRA, or asks for what the engine does not compute.
    """
    if len(raw) > MAX_BYTES:
        raise ModelFormatError(f"{file}: larger than {MAX_BYTES} bytes")
    try:
        settings = json.loads(raw)
    except (ValueError, RecursionError):
        raise ModelFormatError(f"{file}: not JSON") from None
    if not isinstance(settings, dict):
        raise ModelFormatError(f"{file}: not a JSON object")
    try:
        return _checked(settings)
    except ValueError as error:
        raise ModelFormatError(f"{file}: {error}") from None


def _checked(settings: dict[str, object]) -> PeftConfig:
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"peft_type {_show(settings.get('peft_type'))} is not LORA")
    if settings.get("bias", "none") != "none":
        raise ValueError(f"bias {_show(settings['bias'])}: biases are not supported")
    start = settings.get("init_lora_weights", True)
    if not any(start is plain or (start == plain and plain is not True) for plain in _PLAIN_STARTS):
        raise ValueError(f"init_lora_weights {_show(start)} changes the base weights")
    for name, value in settings.items():
        if name not in _IRRELEVANT | _READ and value not in (None, False, [], {}, ""):
            raise ValueError(f"{name[:60]!a}: {_show(value)} is not supported")
    rank = _whole(settings, "r", 1, MAX_RANK)
    alpha = settings.get("lora_alpha")
    if not is_number(alpha):
        raise ValueError(f"lora_alpha {_show(alpha)} is not a number")
    rslora = settings.get("use_rslora", False)
    if not isinstance(rslora, bool):
        raise ValueError(f"use_rslora {_show(rslora)} is not true or false")
    scale = float(alpha) / (math.sqrt(rank) if rslora else rank)
    return PeftConfig(rank, scale, _targets(settings), _layers(settings))


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or float, numpy's too, that a double holds."""
    kinds = int | float | np.integer | np.floating
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _targets(settings: dict[str, object]) -> tuple[str, ...]:
    targets = settings.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
        raise ValueError(f"target_modules {_show(targets)} is not a list of module names")
    known = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise ValueError(f"target module {_show(target)} is not one of {', '.join(known)}")
    return tuple(targets)


def _layers(settings: dict[str, object]) -> tuple[int, ...] | None:
    layers = settings.get("layers_to_transform")
    pattern = settings.get("layers_pattern")
    if pattern not in (None, "", [], "layers", ["layers"]):
        raise ValueError(f"layers_pattern {_show(pattern)} is not 'layers'")
    if layers is None or layers == []:
        return None
    if isinstance(layers, int):
        layers = [layers]
    if not isinstance(layers, list) or not all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers
    ):
        raise ValueError(f"layers_to_transform {_show(layers)} is not a list of layer numbers")
    return tuple(layers)


def _whole(settings: dict[str, object], name: str, low: int, high: int) -> int:
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {_show(value)} is not a whole number in {low}..{high}")
    return value


def _show(value: object) -> str:
    """Return a value on one short line of ASCII."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
