"""A Llama-family model's dimensions and rotary frequencies, read from GGUF metadata.

Whatever would change the forward pass and is not implemented (experts, YaRN, partial rotary
embeddings, bidirectional attention) is refused, never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ptmo_secure.engine.metadata import Metadata
from ptmo_secure.engine.tensors import FloatTensor, Int4Tensor, Int8Tensor
from ptmo_secure.errors import ModelFormatError

ARCHITECTURES = ("llama", "qwen2")
MAX_HEAD_DIM = 512
_MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 17  # d_model and d_ff
_MAX_CONTEXT_TOKENS = 1 << 24
_BLOCK = 32  # weights per quantisation block: every contracted axis is a multiple of it


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Dimensions of one model.

    Raises:
        ModelFormatError: they contradict each other or exceed the engine's limits.
    """

    architecture: str  # "llama" | "qwen2"
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


def read_config(
    metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], source: str
) -> LlamaConfig:
    """Read and check the dimensions.

    Args:
        metadata: the file's metadata.
        shapes: shape of every tensor in the file.
        source: what error messages call the file.

    A sliding attention window below the context length (Mistral 7B v0.1) caps
    `context_length`: inside the window, windowed and full attention are the same.
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
    context = meta.integer(f"{arch}.context_length", 1, _MAX_CONTEXT_TOKENS)
    window = meta.integer(f"{arch}.attention.sliding_window", 0, _MAX_CONTEXT_TOKENS, default=0)
    try:
        return LlamaConfig(
            architecture=arch,
            n_layers=meta.integer(f"{arch}.block_count", 1, _MAX_LAYERS),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=meta.integer(f"{arch}.attention.head_count_kv", 1, n_heads, n_heads),
            head_dim=head_dim,
            d_ff=meta.integer(f"{arch}.feed_forward_length", 1, _MAX_WIDTH),
            vocab_size=_vocab_size(meta, arch, metadata, shapes),
            context_length=min(context, window) if window else context,
            rms_eps=meta.number(f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 0.1),
            rope_theta=meta.number(f"{arch}.rope.freq_base", 1.0, 1e12, default=10000.0),
            tied_head="output.weight" not in shapes,
            qkv_bias="blk.0.attn_q.bias" in shapes,
        )
    except ModelFormatError as error:
        text = str(error)
        raise ModelFormatError(text if text.startswith(source) else f"{source}: {text}") from None


def read_inv_freq(
    metadata: Mapping[str, object],
    config: LlamaConfig,
    factors: Int4Tensor | Int8Tensor | FloatTensor | None,
    source: str,
) -> np.ndarray:
    """Return the rotary frequencies with linear and Llama-3 scaling applied.

    inv_freq[j] = rope_theta^(-2j / head_dim) / (linear factor * factors[j])

    Args:
        metadata: the file's metadata.
        config: the model's dimensions.
        factors: [head_dim/2], the file's `rope_freqs.weight` (Llama 3.1 and later), or None.
        source: what error messages call the file.

    Returns:
        float32 [head_dim/2], rad/token.
    """
    meta = Metadata(metadata, source)
    prefix = f"{config.architecture}.rope"
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    inv_freq = 1.0 / config.rope_theta**exponent
    kind = meta.text(f"{prefix}.scaling.type", default="none")
    if kind not in ("none", "linear"):
        raise meta.error(f"{prefix}.scaling.type", f"{kind!a} is not supported")
    if kind == "linear":
        inv_freq /= meta.number(f"{prefix}.scaling.factor", 1e-3, 1e6)
    elif f"{prefix}.scale_linear" in meta:
        inv_freq /= meta.number(f"{prefix}.scale_linear", 1e-3, 1e6)
    if factors is not None:
        divisors = factors.dequantize().astype(np.float64)
        if not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise meta.error("rope_freqs.weight", "a factor is not positive")
        inv_freq /= divisors
    return inv_freq.astype(np.float32)


def _refuse_unsupported(meta: Metadata, arch: str) -> None:
    if meta.integer(f"{arch}.expert_count", 0, 1 << 16, default=0):
        raise meta.error(f"{arch}.expert_count", "mixture-of-experts models are not supported")
    if not meta.boolean(f"{arch}.attention.causal", default=True):
        raise meta.error(f"{arch}.attention.causal", "bidirectional models are not supported")
    if meta.number(f"{arch}.rope.scaling.attn_factor", 0, 1e6, default=1.0) != 1.0:
        raise meta.error(f"{arch}.rope.scaling.attn_factor", "attention scaling is not supported")


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
