"""A model's rotary frequencies, scaling applied (Su et al. 2021)."""

from collections.abc import Mapping

import numpy as np

from ptmo_secure.engine.metadata import Metadata
from ptmo_secure.engine.model_config import LlamaConfig
from ptmo_secure.engine.tensors import WeightTensor


def read_inv_freq(
    metadata: Mapping[str, object],
    config: LlamaConfig,
    factors: WeightTensor | None,
    source: str,
) -> np.ndarray:
    """Return the frequencies of global layers, with linear and Llama-3 scaling applied.

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
    inv_freq = _unscaled(config.rope_theta, config.head_dim)
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


def local_inv_freq(config: LlamaConfig) -> np.ndarray:
    """Return the frequencies of local layers, which no scaling touches.

    Returns:
        float32 [head_dim/2], rad/token.
    """
    return _unscaled(config.rope_theta_local, config.head_dim).astype(np.float32)


def _unscaled(theta: float, head_dim: int) -> np.ndarray:
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    inv_freq: np.ndarray = 1.0 / theta**exponent
    return inv_freq
