"""Layer shapes of the models that the kernels are timed for."""

from dataclasses import dataclass

CHUNK_TOKENS = 128  # the engine's prefill chunk


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a decoder, as its model card gives them."""

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """[rows, cols] of the linear layers, one name for those of one shape and input."""
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes = {
            "q": (q_size, self.d_model),
            "kv": (kv_size, self.d_model),
            "o": (self.d_model, q_size),
            "gate-up": (self.d_ff, self.d_model),
            "down": (self.d_model, self.d_ff),
        }
        return shapes


MODELS = (
    ModelShape("smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152),
    ModelShape("llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256),
    ModelShape("llama-3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256),
    ModelShape("qwen2.5-0.5b", 24, 896, 14, 2, 64, 4864, 151936),
    ModelShape("qwen2.5-1.5b", 28, 1536, 12, 2, 128, 8960, 151936),
)


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear layer of a model."""

    model: str
    layer: str
    rows: int
    cols: int

    @property
    def activation_bits(self) -> int:
        """Of the layer's input (kernels/README.md, "Which inputs have 16 bits")."""
        return 16 if self.layer in ("q", "kv", "down", "head") else 8

    def __str__(self) -> str:
        return f"{self.model}-{self.layer}-{self.rows}x{self.cols}"


LINEARS = tuple(
    LinearShape(model.name, layer, rows, cols)
    for model in MODELS
    for layer, (rows, cols) in model.linears.items()
)
HEADS = tuple(LinearShape(m.name, "head", m.vocab_size, m.d_model) for m in MODELS)
