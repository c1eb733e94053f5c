"""Adapter folders as PEFT writes them, and models with an adapter merged into their weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ptmo_secure.engine.adapters import AdapterWeights, linear_shapes, split_name
from ptmo_secure.engine.low_rank import LowRankPair

MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# What PEFT 0.21.2 writes for a plain LoRA.
SETTINGS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}


def some_adapter(model, rank, seed=0, roles=("q", "v"), layers=None, size=0.3):
    """Return seeded float32 weights of a scale of one."""
    random = np.random.default_rng(seed)
    shapes = linear_shapes(model)
    pairs = {}
    for layer in range(model.n_layers) if layers is None else layers:
        for role in roles:
            rows, cols = shapes[role]
            a = random.standard_normal((rank, cols)) * cols**-0.5
            b = random.standard_normal((rows, rank)) * size * rank**-0.5
            pairs[f"layers.{layer}.{role}"] = LowRankPair(
                a.astype(np.float32), b.astype(np.float32), 1.0
            )
    return AdapterWeights(pairs)


def tensors_of(weights: AdapterWeights) -> dict[str, np.ndarray]:
    """Return the tensors of `adapter_model.safetensors` by their names."""
    out = {}
    for name, pair in weights.pairs.items():
        layer, role = split_name(name)
        prefix = f"base_model.model.model.layers.{layer}.{MODULES[role]}"
        out[f"{prefix}.lora_A.weight"] = pair.a
        out[f"{prefix}.lora_B.weight"] = pair.b
    return out


def write_adapter(
    folder: Path, weights: AdapterWeights, tensors: dict[str, np.ndarray] | None = None, **settings
) -> Path:
    """Write a folder; `settings` override what PEFT would write for these weights.

    The scale of the weights is not written: it follows from `lora_alpha` and `r`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [MODULES[role].rpartition(".")[2] for role in weights.roles]
    config = SETTINGS | {"r": weights.rank, "lora_alpha": weights.rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    save_file(tensors or tensors_of(weights), folder / "adapter_model.safetensors")
    return folder


def merge(hf, weights: AdapterWeights):
    """Add an adapter's updates to the weights of a transformers model; return the model."""
    import torch

    state = hf.state_dict()
    with torch.no_grad():
        for name, pair in weights.pairs.items():
            layer, role = split_name(name)
            update = pair.b.astype(np.float64) @ pair.a.astype(np.float64) * pair.scale
            weight = state[f"model.layers.{layer}.{MODULES[role]}.weight"]
            weight += torch.from_numpy(update).to(weight.dtype)
    return hf
