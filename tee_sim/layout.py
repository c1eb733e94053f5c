"""The attention geometry of a loaded model, as client and TEE agree on it."""

from dataclasses import dataclass

MAX_LAYERS = 512
MAX_HEADS = 1024
MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Sizes that decide which permutations exist and what they may move.

    Args:
        n_layers: transformer layers, 1..512.
        n_heads: query heads, a multiple of `n_kv_heads`, at most 1024.
        n_kv_heads: key/value heads; one key each, shared by its group of query heads.
        head_dim: elements of one head, even, 2..256.
        rotary_dim: elements RoPE rotates; must equal `head_dim`. Pair j is (j, j + rotary_dim/2).
        v_block: value elements move only inside aligned blocks of this size; divides `head_dim`
            (equal to it: any permutation).

    Raises:
        ValueError: naming the field that is out of range.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int
    v_block: int

    def __post_init__(self) -> None:
        if not 1 <= self.n_layers <= MAX_LAYERS:
            raise ValueError(f"n_layers={self.n_layers} is outside 1..{MAX_LAYERS}")
        if not 1 <= self.n_kv_heads <= self.n_heads <= MAX_HEADS:
            raise ValueError(
                f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}: need "
                f"1 <= n_kv_heads <= n_heads <= {MAX_HEADS}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}"
            )
        if not 2 <= self.head_dim <= MAX_HEAD_DIM or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is not an even number in 2..{MAX_HEAD_DIM}")
        if self.rotary_dim != self.head_dim:
            raise ValueError(
                f"rotary_dim={self.rotary_dim} differs from head_dim={self.head_dim}: partial "
                "rotary embeddings are not supported"
            )
        if not 1 <= self.v_block <= self.head_dim or self.head_dim % self.v_block:
            raise ValueError(f"v_block={self.v_block} does not divide head_dim={self.head_dim}")

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_pairs(self) -> int:
        """Rotary pairs of one head."""
        return self.rotary_dim // 2
