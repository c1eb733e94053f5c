"""A Llama-family model's dimensions and variants, read from GGUF metadata.

Whatever would change the forward pass and is not implemented (experts, YaRN, partial rotary
embeddings, bidirectional attention, soft-capped logits) is refused, never ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ptmo_secure.engine.metadata import Metadata
from ptmo_secure.errors import ModelFormatError

Activation = Literal["silu", "gelu_tanh"]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
MAX_HEAD_DIM = 512
_MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 17  # d_model and d_ff
_MAX_CONTEXT_TOKENS = 1 << 24
_BLOCK = 32  # weights per quantisation block: every contracted axis is a multiple of it
_GEMMA3_PERIOD = 6  # every 6th layer is global where the file does not say
_GEMMA3_27B_LAYERS = 62
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Dimensions of one model, and where it departs from Llama.

    Raises:
        ModelFormatError: they contradict each other or exceed the engine's limits.
    """

    architecture: str  # one of ARCHITECTURES
    n_layers: int
    d_model: int  # multiple of 32
    n_heads: int
    n_kv_heads: int  # divides n_heads
    head_dim: int  # even, at most 512; n_heads * head_dim is a multiple of 32
    d_ff: int  # multiple of 32
    vocab_size: int
    context_length: int  # tokens
    rms_eps: float
    rope_theta: float
    tied_head: bool
    qkv_bias: bool
    attention_scale: float  # factor of q.k
    qk_norm: bool = False  # RMS norm of every query and key head before RoPE
    post_norms: bool = False  # RMS norm of what attention and feed-forward add to the residual
    activation: Activation = "silu"  # of the feed-forward gate
    embed_scale: float = 1.0  # factor of the embeddings, not of the tied head
    sliding_window: int = 0  # tokens a local layer sees, the current one included
    local_layers: tuple[bool, ...] = ()  # one a layer; empty: every layer sees all tokens
    rope_theta_local: float = 0.0  # of local layers

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ModelFormatError(f"architecture {self.architecture!r} is not supported")
        for name in (
            "n_layers",
            "d_model",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "d_ff",
            "vocab_size",
            "context_length",
        ):
            if getattr(self, name) < 1:
                raise ModelFormatError(f"{name} is {getattr(self, name)}, below 1")
        if self.n_heads % self.n_kv_heads:
            raise ModelFormatError(
                f"{self.n_heads} heads are no multiple of {self.n_kv_heads} key/value heads"
            )
        if self.head_dim % 2 or self.head_dim > MAX_HEAD_DIM:
            raise ModelFormatError(f"head dimension {self.head_dim} is odd or above {MAX_HEAD_DIM}")
        for name, width in (
            ("embedding length", self.d_model),
            ("heads x head dimension", self.n_heads * self.head_dim),
            ("feed-forward length", self.d_ff),
        ):
            if width % _BLOCK or width > _MAX_WIDTH:
                raise ModelFormatError(
                    f"{name} {width} is no multiple of {_BLOCK} or above {_MAX_WIDTH}"
                )
        if any(self.local_layers) and self.sliding_window < 1:
            raise ModelFormatError("local layers without a sliding window")

    def is_local(self, layer: int) -> bool:
        """Whether a layer's attention stops at the sliding window."""
        return bool(self.local_layers) and self.local_layers[layer]


def read_config(
    metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], source: str
) -> LlamaConfig:
    """Read and check the dimensions.

    Args:
        metadata: the file's metadata.
        shapes: shape of every tensor in the file.
        source: what error messages call the file.

    Where every layer has a sliding attention window below the context length (Mistral 7B v0.1),
    it caps `context_length`: inside the window, windowed and full attention are the same.
    Gemma 3's window is that of its local layers.
    """
    meta = Metadata(metadata, source)
    arch = meta.text("general.architecture")
    if arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise meta.error("general.architecture", f"{arch!a} is not supported (known: {known})")
    _refuse_unsupported(meta, arch)
    d_model = meta.integer(f"{arch}.embedding_length", 1, _MAX_WIDTH)
    n_heads = meta.integer(f"{arch}.attention.head_count", 1, _MAX_WIDTH)
    head_dim = _head_dim(meta, arch, d_model, n_heads)
    n_layers = meta.integer(f"{arch}.block_count", 1, _MAX_LAYERS)
    context = meta.integer(f"{arch}.context_length", 1, _MAX_CONTEXT_TOKENS)
    window = meta.integer(f"{arch}.attention.sliding_window", 0, _MAX_CONTEXT_TOKENS, default=0)
    gemma = arch == "gemma3"
    local = _local_layers(meta, arch, n_layers) if gemma and window else ()
    theta = meta.number(f"{arch}.rope.freq_base", 1.0, 1e12, default=None if gemma else 1e4)
    try:
        return LlamaConfig(
            architecture=arch,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=meta.integer(f"{arch}.attention.head_count_kv", 1, n_heads, n_heads),
            head_dim=head_dim,
            d_ff=meta.integer(f"{arch}.feed_forward_length", 1, _MAX_WIDTH),
            vocab_size=_vocab_size(meta, arch, metadata, shapes),
            context_length=min(context, window) if window and not gemma else context,
            rms_eps=meta.number(f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 0.1),
            rope_theta=theta,
            tied_head="output.weight" not in shapes,
            qkv_bias="blk.0.attn_q.bias" in shapes,
            attention_scale=_attention_scale(meta, arch, n_layers, d_model / n_heads, head_dim),
            qk_norm=arch in ("qwen3", "gemma3"),
            post_norms=gemma,
            activation="gelu_tanh" if gemma else "silu",
            embed_scale=math.sqrt(d_model) if gemma else 1.0,
            sliding_window=window if local else 0,
            local_layers=local,
            rope_theta_local=meta.number(f"{arch}.rope.freq_base_swa", 1.0, 1e12, default=1e4),
        )
    except ModelFormatError as error:
        text = str(error)
        raise ModelFormatError(text if text.startswith(source) else f"{source}: {text}") from None


def _refuse_unsupported(meta: Metadata, arch: str) -> None:
    if meta.integer(f"{arch}.expert_count", 0, 1 << 16, default=0):
        raise meta.error(f"{arch}.expert_count", "mixture-of-experts models are not supported")
    if not meta.boolean(f"{arch}.attention.causal", default=True):
        raise meta.error(f"{arch}.attention.causal", "bidirectional models are not supported")
    if meta.number(f"{arch}.rope.scaling.attn_factor", 0, 1e6, default=1.0) != 1.0:
        raise meta.error(f"{arch}.rope.scaling.attn_factor", "attention scaling is not supported")
    for key in (f"{arch}.{name}" for name in _SOFTCAPS):
        if meta.number(key, 0, 1e6, default=0.0):
            raise meta.error(key, "soft-capped logits are not supported")
    pattern = f"{arch}.attention.sliding_window_pattern"
    if arch != "gemma3" and pattern in meta:
        raise meta.error(pattern, f"local layers are not supported in {arch} models")


def _local_layers(meta: Metadata, arch: str, n_layers: int) -> tuple[bool, ...]:
    """Which layers see a window only: all but every n-th, or what the file lists per layer."""
    key = f"{arch}.attention.sliding_window_pattern"
    listed = meta.booleans(key, n_layers)
    if listed is not None:
        return listed
    period = meta.integer(key, 1, _MAX_LAYERS, default=_GEMMA3_PERIOD)
    return tuple((layer + 1) % period != 0 for layer in range(n_layers))


def _attention_scale(
    meta: Metadata, arch: str, n_layers: int, mean_head_width: float, head_dim: int
) -> float:
    """1 / sqrt(head_dim), but for Gemma 3 27B: 1 / sqrt(d_model / n_heads).

    The converter writes no key for it; llama.cpp knows that model by its number of layers.
    """
    odd = arch == "gemma3" and n_layers == _GEMMA3_27B_LAYERS
    default = 1.0 / math.sqrt(mean_head_width if odd else head_dim)
    return meta.number(f"{arch}.attention.scale", 1e-6, 1e3, default=default)


def _head_dim(meta: Metadata, arch: str, d_model: int, n_heads: int) -> int:
    key = f"{arch}.attention.key_length"
    if key in meta:
        head_dim = meta.integer(key, 2, MAX_HEAD_DIM)
    elif d_model % n_heads:
        raise meta.error(
            f"{arch}.attention.head_count", f"{n_heads} heads do not divide width {d_model}"
        )
    else:
        head_dim = d_model // n_heads
    for other in (f"{arch}.attention.value_length", f"{arch}.rope.dimension_count"):
        value = meta.integer(other, 1, _MAX_WIDTH, default=head_dim)
        if value != head_dim:
            raise meta.error(other, f"{value} differs from the head dimension {head_dim}")
    return head_dim


def _vocab_size(
    meta: Metadata,
    arch: str,
    metadata: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
) -> int:
    embed = shapes.get("token_embd.weight")
    if embed is None:
        raise meta.error("tensor 'token_embd.weight'", "missing")
    meta.integer(f"{arch}.vocab_size", embed[0], embed[0], default=embed[0])
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != embed[0]:
        raise meta.error(
            "tokenizer.ggml.tokens", f"{len(tokens)} tokens, but embeddings for {embed[0]}"
        )
    return embed[0]
