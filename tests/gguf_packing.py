"""Weights in the formats and the row order of GGUF files."""

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize


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
