"""Weights in the formats and the row order of GGUF files."""

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

# Where a block holds its float16 scales (ggml-common.h); all other bytes may be anything.
_SCALES_AT = {
    Kind.Q5_0: (0,),
    Kind.Q5_1: (0, 2),
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
}


def random_blocks(kind: Kind, rows: int, columns: int, seed: int) -> np.ndarray:
    """Return blocks with random codes and scales in -0.02..0.02: uint8 [rows, bytes of a row]."""
    rng = np.random.default_rng(seed)
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // block_elements, block_bytes), dtype=np.uint8)
    for at in _SCALES_AT[kind]:
        scales = rng.uniform(-0.02, 0.02, (len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def interleave(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Reorder rows as llama.cpp's converter does: rotary pairs become neighbours."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo `interleave`."""
    pairs = rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def pack(weights: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of a matrix in a kind, and the float32 weights they stand for."""
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    packed = _pack_q4_k(weights) if kind == Kind.Q4_K else quantize(weights, kind)
    return packed, dequantize(packed, kind).astype(np.float32).reshape(weights.shape)


def _pack_q4_k(weights: np.ndarray) -> np.ndarray:
    """Quantise to Q4_K (ggml-common.h, block_q4_K): 8 sub-blocks of 32 with 6-bit scales."""
    blocks = weights.reshape(-1, 8, 32)
    low = np.minimum(blocks.min(axis=2), 0)
    scale, minimum = (blocks.max(axis=2) - low) / 15, -low
    d = (scale.max(axis=1) / 63).astype(np.float16)
    dmin = (minimum.max(axis=1) / 63).astype(np.float16)
    wide_d, wide_min = d.astype(np.float32)[:, None], dmin.astype(np.float32)[:, None]
    sc = np.rint(scale / np.maximum(wide_d, 1e-9)).clip(0, 63).astype(np.uint8)  # [B, 8]
    mn = np.rint(minimum / np.maximum(wide_min, 1e-9)).clip(0, 63).astype(np.uint8)
    step = np.maximum((wide_d * sc)[:, :, None], 1e-9)
    codes = np.rint((blocks + (wide_min * mn)[:, :, None]) / step).clip(0, 15).astype(np.uint8)
    scales = np.concatenate(
        [
            sc[:, :4] | (sc[:, 4:] >> 4) << 6,
            mn[:, :4] | (mn[:, 4:] >> 4) << 6,
            (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    pairs = codes.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    parts = [d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2), scales, nibbles]
    packed = np.concatenate(parts, axis=1)
    return packed.reshape(weights.shape[0], -1)
