"""From ggml's block formats to the engine's tensors, without loss where that is possible.

Q4_0, Q4_1 and Q8_0 blocks hold 32 weights: a float16 scale `d` (Q4_1: and a float16 minimum `m`),
then the codes in the order of `tensors.py`. Q4_0 stands for d * (code - 8), that is scale d and
minimum -8 d, which float16 holds exactly. Formats: ggml/src/ggml-common.h.
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
LOSSLESS_KINDS = (Kind.Q4_0, Kind.Q4_1, Kind.Q8_0)
REQUANTISED_KINDS = (
    Kind.Q5_0,
    Kind.Q5_1,
    Kind.Q2_K,
    Kind.Q3_K,
    Kind.Q4_K,
    Kind.Q5_K,
    Kind.Q6_K,
)
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
    """Split Q4_0, Q4_1 or Q8_0 blocks into codes, scales and mins; no value changes.

    Args:
        raw: uint8 [bytes of the tensor].
        kind: one of `LOSSLESS_KINDS`.
        shape: (N, K).
    """
    rows, columns = shape
    blocks = raw.reshape(rows, columns // SUB_BLOCK, -1)  # [N, K/32, block bytes]
    scales = np.ascontiguousarray(blocks[:, :, 0:2]).view("<f2")[:, :, 0]
    if kind == Kind.Q8_0:
        codes = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(rows, columns)
        return Int8Tensor(codes, np.ascontiguousarray(scales))
    if kind == Kind.Q4_1:
        mins = np.ascontiguousarray(blocks[:, :, 2:4]).view("<f2")[:, :, 0]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            mins = scales * np.float16(-8)
    codes = np.ascontiguousarray(blocks[:, :, -16:]).reshape(rows, columns // 2)
    return Int4Tensor(codes, np.ascontiguousarray(scales), np.ascontiguousarray(mins), SUB_BLOCK)


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
        to_int8: INT8 (embeddings and heads) rather than INT4.
        quantize_int4: (x [n, K] float32, group) -> codes, scales, mins; None: the native one.
    """
    rows, columns = shape
    by_row = raw.reshape(rows, row_bytes(kind, columns))
    step = max(1, _CHUNK_WEIGHTS // columns)
    parts: list[tuple[np.ndarray, ...]] = []
    quantizer = None if to_int8 else quantize_int4 or _native_quantizer()
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
