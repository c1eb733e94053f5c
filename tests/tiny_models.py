"""Tiny seeded models, written as GGUF files the way llama.cpp's converter writes real ones.

    model = make_tiny_model(tmp_path, family="llama", quant="Q4_1")
    engine = Engine.load(model.path)
    model.reference()          # a transformers model with exactly the weights the importer delivers

The vocabulary is byte-level BPE with every byte, a few merges, and ChatML's control tokens.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.tokenizer import _BYTE_TO_CHAR
from tests.gguf_packing import deinterleave, interleave, pack

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (
    "Ġ t",
    "h e",
    "i n",
    "Ġ a",
    "Ġt he",
    "r e",
    "e r",
    "Ġ s",
    "o n",
    "Ġ Ġ",
    "a t",
    "in g",
    "u s",
    "us er",
    "Ċ Ċ",
    "l l",
    "Ġ h",
    "l o",
    "he ll",
    "hell o",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCAB_SIZE = 320

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TinyModel:
    """A GGUF file and where it came from."""

    path: Path
    hf: Any  # the transformers model, its weights replaced by the file's dequantised ones
    settings: dict[str, Any]

    def reference(self) -> Any:
        """Return a transformers model with the weights the importer delivers, in float32.

        For kinds the importer re-quantises (Q5_0, Q4_K) these differ from the file's.
        """
        with ModelSource(self.path) as source:
            return load_importer_weights(make_hf_model(**self.settings), source)


def vocabulary() -> tuple[list[str], list[int]]:
    """Return tokens and token types; ids 0..2 are the control tokens, 3..258 the bytes."""
    tokens = [*CONTROL_TOKENS, *(_BYTE_TO_CHAR[byte] for byte in range(256))]
    tokens += ["".join(pair.split(" ")) for pair in MERGES]
    types = [3] * len(CONTROL_TOKENS) + [1] * (len(tokens) - len(CONTROL_TOKENS))
    fillers = VOCAB_SIZE - len(tokens)
    return tokens + [f"[PAD{i}]" for i in range(fillers)], types + [5] * fillers


def tokenizer_metadata(pre: str = "smollm", **changes: object) -> dict[str, object]:
    """Return the tokenizer's part of a GGUF's metadata as `GgufFile` would."""
    tokens, types = vocabulary()
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, dtype=np.int32),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    metadata.update(changes)
    return {key: value for key, value in metadata.items() if value is not None}


def make_hf_model(
    family: str = "llama",  # "llama" | "mistral" | "qwen2" | "qwen3" | "gemma3"
    d_model: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    head_dim: int = 16,
    d_ff: int = 96,
    context_length: int = 512,
    rope_theta: float = 10000.0,
    tied: bool = False,
    rope_scaling: str | None = None,  # None | "linear" | "llama3"
    sliding_window: int = 24,  # of Gemma 3's local layers
    sliding_period: int = 6,  # every so many Gemma 3 layers, one is global
    seed: int = 0,
) -> Any:
    """Return a seeded float32 transformers model whose logits vary enough to compare."""
    import torch
    import transformers

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rope_theta}
    if rope_scaling == "llama3":
        rope |= LLAMA3_SCALING
    elif rope_scaling == "linear":
        rope |= {"rope_type": "linear", "factor": 2.0}
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }[family]
    extra: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    if family == "gemma3":
        local = {"rope_type": "default", "rope_theta": 10000.0}
        rope = {"full_attention": rope, "sliding_attention": local}
        extra["sliding_window"] = sliding_window
        extra["sliding_window_pattern"] = sliding_period
        extra["query_pre_attn_scalar"] = head_dim
    config = config_class(
        vocab_size=VOCAB_SIZE,
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context_length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        rope_parameters=rope,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        **extra,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                gain = 1.0 - norm_offset(config)
                parameter.copy_(noise * 0.1 + (0.0 if name.endswith("bias") else gain))
            else:
                scaled = "embed" in name and family != "gemma3"  # Gemma's model scales them itself
                parameter.copy_(noise * (1.0 if scaled else parameter.shape[1] ** -0.5))
    return model


def make_tiny_model(
    folder: Path, quant: str = "Q4_1", embed_quant: str | None = None, **settings: Any
) -> TinyModel:
    """Write a tiny model as GGUF.

    Args:
        folder: where the file goes.
        quant: kind of the matrices: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, F16, BF16, F32, or Q4_K (rows
            of a multiple of 256).
        embed_quant: kind of embeddings and head; None: Q8_0 for quantised files.
        settings: see `make_hf_model`.
    """
    import torch

    hf = make_hf_model(**settings)
    family = settings.get("family", "llama")
    arch = family if family in ("qwen2", "qwen3", "gemma3") else "llama"
    kind = Kind[quant]
    embed_kind = Kind[embed_quant] if embed_quant else kind
    if embed_quant is None and kind not in (Kind.F16, Kind.BF16, Kind.F32):
        embed_kind = Kind.Q8_0
    label = "-".join(str(value) for value in (settings or {"family": "llama"}).values())
    path = folder / f"tiny-{label}-{quant}-{embed_kind.name}.gguf"
    writer = gguf.GGUFWriter(path, arch)
    _write_settings(writer, hf.config, tied=bool(settings.get("tied")))
    _write_tokenizer(writer)
    state = hf.state_dict()
    for name, hf_name in _names(hf.config).items():
        offset = np.float32(norm_offset(hf.config) if name.endswith("norm.weight") else 0.0)
        weights = state[hf_name].numpy() + offset
        heads = _interleaved_heads(name, hf.config) if arch == "llama" else 0
        stored = interleave(weights, heads) if heads else weights
        target = Kind.F32
        if weights.ndim == 2:
            target = embed_kind if name in ("token_embd.weight", "output.weight") else kind
        packed, exact = pack(stored, target)
        writer.add_tensor(name, packed, raw_dtype=target)
        with torch.no_grad():
            plain = deinterleave(exact, heads) if heads else exact
            state[hf_name].copy_(torch.from_numpy(plain - offset))
    if settings.get("rope_scaling") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(hf.config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyModel(path, hf, settings)


def load_importer_weights(hf: Any, source: ModelSource) -> Any:
    """Give a transformers model the weights a `ModelSource` delivers; return the model."""
    import torch

    names = {**{"embed": "token_embd.weight", "final_norm": "output_norm.weight"}}
    names["head"] = "output.weight"
    by_gguf_name = _names(hf.config)
    state = hf.state_dict()
    with torch.no_grad():
        for name in source.tensor_names():
            gguf_name = names.get(name) or _gguf_name(name)
            offset = np.float32(norm_offset(hf.config) if name.endswith("norm") else 0.0)
            values = source.tensor(name).dequantize() - offset
            state[by_gguf_name[gguf_name]].copy_(torch.from_numpy(values))
    return hf


def norm_offset(config: Any) -> float:
    """Return what llama.cpp's converter adds to norm weights: Gemma's models apply 1 + weight."""
    return 1.0 if config.model_type == "gemma3_text" else 0.0


def llama3_factors(config: Any) -> np.ndarray:
    """Return what llama.cpp's converter writes as `rope_freqs.weight`, [head_dim/2] float32."""
    scaling = rope_parameters(config)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    old = scaling["original_max_position_embeddings"]
    factors = []
    for index in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * scaling["rope_theta"] ** (index / config.head_dim)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(scaling["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def rope_parameters(config: Any) -> dict[str, Any]:
    """Return the rotary settings of a transformers configuration, those of its global layers."""
    parameters: dict[str, Any] = config.rope_parameters
    return parameters.get("full_attention", parameters)


def _write_settings(writer: gguf.GGUFWriter, config: Any, tied: bool) -> None:
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    rope = rope_parameters(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        kinds = [*config.layer_types, "full_attention"]
        period = kinds.index("full_attention") + 1
        if period != 6 and period <= len(config.layer_types):  # 6 is what readers assume
            writer.add_sliding_window_pattern(period)
    else:
        writer.add_rope_dimension_count(config.head_dim)


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens, types = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_GEMMA_NORMS = {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}


def _names(config: Any) -> dict[str, str]:
    """Map GGUF tensor names to transformers' parameter names."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    if not config.tie_word_embeddings:
        names["output.weight"] = "lm_head.weight"
    kind = config.model_type
    layer_names = _LAYER_NAMES | (_GEMMA_NORMS if kind == "gemma3_text" else {})
    for layer in range(config.num_hidden_layers):
        for name, hf_name in layer_names.items():
            if name.endswith("bias") and kind != "qwen2":
                continue
            if name.endswith(("q_norm.weight", "k_norm.weight")) and not kind.startswith(
                ("qwen3", "gemma3")
            ):
                continue
            names[f"blk.{layer}.{name}"] = f"model.layers.{layer}.{hf_name}"
    return names


def _gguf_name(name: str) -> str:
    _, layer, role = name.split(".")
    part = {
        "o": "attn_output",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
        "attn_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "attn_post_norm": "post_attention_norm",
        "ffn_post_norm": "post_ffw_norm",
    }.get(role)
    if part is None and role.endswith("_bias"):
        return f"blk.{layer}.attn_{role[0]}.bias"
    part = part or f"attn_{role}"
    return f"blk.{layer}.{part}.weight"


def _interleaved_heads(name: str, config: Any) -> int:
    """Return the heads whose rows the converter reorders in this tensor, 0 for none."""
    if ".attn_q." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".attn_k." in name else 0
