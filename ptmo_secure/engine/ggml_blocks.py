"""From ggml's block formats to the engine's tensors, without loss where that is possible.

Q4_0, Q4_1, Q5_0 and Q8_0 blocks hold 32 weights: a float16 scale `d` (Q4_1: and a float16 minimum
`m`), then the codes in the order of `tensors.py`. Q4_0 stands for d * (code - 8), that is scale d
and minimum -8 d, which float16 holds exactly; Q5_0 for d * (code - 16), which INT8 holds. Q4_K
keeps its codes too; its scales and minima, products of a float16 and 6 bits, are rounded to
float16. Formats: ggml/src/ggml-common.h.
"""

from collections.abc import Callable

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ptmo_secure.engine.tensors import SUB_BLOCK, FloatTensor, Int4Tensor, Int8Tensor
from ptmo_secure.errors import EngineError

Kind = GGMLQuantizationType
Int4Quantizer = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]

FLOAT_KINDS = (Kind.F32, Kind.F16, Kind.BF16)
UNPACKED_KINDS = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q8_0, Kind.Q4_K)
_TO_INT8 = (Kind.Q5_1, Kind.Q5_K, Kind.Q6_K)  # more than INT4 can hold
REQUANTISED_KINDS = (*_TO_INT8, Kind.Q2_K, Kind.Q3_K)
_CHUNK_WEIGHTS = 1 << 21  # float32 weights held at once while re-quantising: 8 MiB


def row_bytes(kind: Kind, columns: int) -> int:
    """Return the bytes of one row of `columns` weights."""
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    return columns // block_elements * block_bytes


def unpack_float(raw: np.ndarray, kind: Kind, shape: tuple[int, ...]) -> FloatTensor:
    """Return F32 and F16 data as they are, BF16 widened to float32 (exact)."""
    if kind == Kind.BF16:
        wide = raw.view("<u2").astype(np.uint32) << np.uint32(16)
        return FloatTensor(wide.view(np.float32).reshape(shape))
    dtype = "<f4" if kind == Kind.F32 else "<f2"
    return FloatTensor(raw.view(dtype).reshape(shape).copy())


def unpack_blocks(raw: np.ndarray, kind: Kind, shape: tuple[int, int]) -> Int4Tensor | Int8Tensor:
    """Split blocks into codes, scales and mins; no code changes.

    Args:
        raw: uint8 [bytes of the tensor].
        kind: one of `UNPACKED_KINDS`.
        shape: (N, K).
    """
    if kind == Kind.Q4_K:
        return _unpack_q4_k(raw, shape)
    rows, columns = shape
    blocks = raw.reshape(rows, columns // SUB_BLOCK, -1)  # [N, K/32, block bytes]
    scales = np.ascontiguousarray(blocks[:, :, 0:2]).view("<f2")[:, :, 0]
    if kind in (Kind.Q5_0, Kind.Q8_0):
        codes = _q5_0_codes(blocks) if kind == Kind.Q5_0 else blocks[:, :, 2:].view(np.int8)
        codes = np.ascontiguousarray(codes).reshape(rows, columns)
        return Int8Tensor(codes, np.ascontiguousarray(scales))
    if kind == Kind.Q4_1:
        mins = np.ascontiguousarray(blocks[:, :, 2:4]).view("<f2")[:, :, 0]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            mins = scales * np.float16(-8)
    codes = np.ascontiguousarray(blocks[:, :, -16:]).reshape(rows, columns // 2)
    return Int4Tensor(codes, np.ascontiguousarray(scales), np.ascontiguousarray(mins), SUB_BLOCK)


def _q5_0_codes(blocks: np.ndarray) -> np.ndarray:
    """[N, K/32, 22] -> int8 [N, K/32, 32] in -16..15: low nibbles, high ones, then fifth bits."""
    nibbles = np.concatenate([blocks[:, :, 6:] & 0x0F, blocks[:, :, 6:] >> 4], axis=2)
    fifth = np.unpackbits(blocks[:, :, 2:6], axis=2, bitorder="little")
    codes: np.ndarray = (nibbles | fifth << np.uint8(4)).view(np.int8) - np.int8(16)
    return codes


def _unpack_q4_k(raw: np.ndarray, shape: tuple[int, int]) -> Int4Tensor:
    """Take Q4_K apart: 256 weights in 8 sub-blocks, w = d * scale * code - dmin * minimum."""
    rows, columns = shape
    blocks = raw.reshape(-1, 144)
    factors = np.ascontiguousarray(blocks[:, :4]).view("<f2").astype(np.float32)  # d, dmin
    packed = blocks[:, 4:16].reshape(-1, 3, 4)  # 6-bit scales and minima of 8 sub-blocks
    low, high = packed[:, :2] & 0x3F, packed[:, :2] >> 6 << np.uint8(4)
    rest = np.stack([packed[:, 2] & 0x0F, packed[:, 2] >> 4], axis=1) | high
    steps = np.concatenate([low, rest], axis=2) * factors[:, :, None]  # [blocks, 2, 8]
    with np.errstate(over="ignore"):
        scales, mins = steps[:, 0].astype(np.float16), (-steps[:, 1]).astype(np.float16)
    # Byte j of 32 holds code j of two sub-blocks; ours hold codes j and j + 16 of one.
    pairs = blocks[:, 16:].reshape(-1, 4, 2, 16)
    nibbles = np.stack([pairs & 0x0F, pairs >> 4], axis=2)  # [blocks, 4, sub-block, half, 16]
    codes = nibbles[:, :, :, 0] | nibbles[:, :, :, 1] << np.uint8(4)
    by_row = (rows, columns // SUB_BLOCK)
    return Int4Tensor(
        codes.reshape(rows, -1), scales.reshape(by_row), mins.reshape(by_row), SUB_BLOCK
    )


def quantize_int8(weights: np.ndarray) -> Int8Tensor:
    """Quantise rows to INT8 as Q8_0 does: scale = max|w| / 127 per 32 weights.

    Args:
        weights: [N, K] float32, finite, K a multiple of 32.
    """
    rows, columns = weights.shape
    with np.errstate(over="ignore"):
        packed = quantize(np.ascontiguousarray(weights, dtype=np.float32), Kind.Q8_0)
    unpacked = unpack_blocks(packed.reshape(-1), Kind.Q8_0, (rows, columns))
    if not isinstance(unpacked, Int8Tensor):
        raise EngineError("Q8_0 blocks did not unpack to INT8")
    return unpacked


def requantize(
    raw: np.ndarray,
    kind: Kind,
    shape: tuple[int, int],
    to_int8: bool,
    quantize_int4: Int4Quantizer | None,
) -> Int4Tensor | Int8Tensor:
    """Dequantise blocks of a kind the kernels do not know and quantise them anew.

    Works on a few rows at a time: beside the result it holds 8 MiB of float32, or one row.

    Args:
        raw: uint8 [bytes of the tensor].
        kind: one of `REQUANTISED_KINDS`.
        shape: (N, K).
        to_int8: INT8 (embeddings and heads) also where INT4 would do (Q2_K, Q3_K).
        quantize_int4: (x [n, K] float32, group) -> codes, scales, mins; None: the native one.
    """
    rows, columns = shape
    by_row = raw.reshape(rows, row_bytes(kind, columns))
    step = max(1, _CHUNK_WEIGHTS // columns)
    parts: list[tuple[np.ndarray, ...]] = []
    quantizer = None if to_int8 or kind in _TO_INT8 else quantize_int4 or _native_quantizer()
    for start in range(0, rows, step):
        weights = dequantize(by_row[start : start + step], kind)
        if quantizer is None:
            part = quantize_int8(weights)
            parts.append((part.codes, part.scales))
        else:
            parts.append(quantizer(weights, SUB_BLOCK))
    joined = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    if quantizer is None:
        return Int8Tensor(joined[0], joined[1])
    return Int4Tensor(joined[0], joined[1], joined[2], SUB_BLOCK)


def is_finite(tensor: Int4Tensor | Int8Tensor | FloatTensor) -> bool:
    """Say whether every scale, minimum and float of a tensor is finite."""
    if isinstance(tensor, FloatTensor):
        return bool(np.isfinite(tensor.data).all())
    if isinstance(tensor, Int8Tensor):
        return bool(np.isfinite(tensor.scales).all())
    return bool(np.isfinite(tensor.scales).all() and np.isfinite(tensor.mins).all())


def _native_quantizer() -> Int4Quantizer:
    try:
        from ptmo_secure import _native
    except ImportError as error:
        raise EngineError(f"the native module is not built: {error}") from None
    quantizer: Int4Quantizer = _native.quantize_int4
    return quantizer
