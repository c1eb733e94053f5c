"""A LoRA update of one linear layer, s B A, and the INT8 form it is computed in."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.tensors import SUB_BLOCK, FloatTensor, Int8Tensor, WeightTensor
from ptmo_secure.errors import ModelFormatError

MAX_RANK = 64
RANK_CHUNK = 16  # ranks of B that share a scale
_CODE_MAX = 127


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPair:
    """W x becomes W x + scale * B (A x)."""

    a: npt.NDArray[np.float32]  # [rank, cols]
    b: npt.NDArray[np.float32]  # [rows, rank]
    scale: float

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return len(self.a)


@dataclass(frozen=True, slots=True, eq=False)
class LowRankTensors:
    """The same as tensors: both INT8, or both float32."""

    a: WeightTensor  # [rank, cols]
    b: WeightTensor  # [rows, rank]; INT8: ranks padded to whole chunks of 16
    scale: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]

    @property
    def integer(self) -> bool:
        """Whether they are INT8."""
        return isinstance(self.a, Int8Tensor)


def as_tensors(pair: LowRankPair, integer: bool) -> LowRankTensors:
    """Return the form the engine computes in: INT8 where its input is quantised in blocks of 32.

    Raises:
        ModelFormatError: a scale is not a float32.
    """
    if integer and pair.a.shape[1] % SUB_BLOCK == 0:
        return quantize_pair(pair)
    _require_float32(pair.scale)
    return LowRankTensors(FloatTensor(pair.a), FloatTensor(pair.b), pair.scale)


def quantize_pair(pair: LowRankPair) -> LowRankTensors:
    """Quantise A in blocks of 32 columns and B in chunks of 16 ranks, both to symmetric INT8.

    B A does not change when a row of A is divided by a number and the column of B multiplied by
    it, so every row of A is first brought to a largest weight of 1 and B as a whole to one of 1
    (into the scale): ranks of different size share a scale without loss, and no scale falls under
    the least fp16 number.

    Raises:
        ModelFormatError: the product of the scale and the weights is not a float32.
    """
    a, b = pair.a.astype(np.float64), pair.b.astype(np.float64)
    size = np.abs(a).max(axis=1)
    size[size == 0] = 1.0
    b = b * size
    peak = float(np.abs(b).max()) or 1.0
    scale = pair.scale * peak
    _require_float32(scale)
    padded = -(-pair.rank // RANK_CHUNK) * RANK_CHUNK
    b = np.pad(b / peak, ((0, 0), (0, padded - pair.rank)))
    return LowRankTensors(
        _quantize_rows(a / size[:, None], SUB_BLOCK), _quantize_rows(b, RANK_CHUNK), scale
    )


def _require_float32(scale: float) -> None:
    if not abs(scale) <= float(np.finfo(np.float32).max):  # no NaN either
        raise ModelFormatError("its weights and scale are too large for float32")


def _quantize_rows(x: npt.NDArray[np.float64], group: int) -> Int8Tensor:
    """Quantise |x| <= 1: scale = max / 127 rounded up to fp16, codes for the rounded scale."""
    blocks = x.reshape(len(x), -1, group)
    exact = np.abs(blocks).max(axis=2) / _CODE_MAX
    scales = exact.astype(np.float16)
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(2)), scales)
    step = scales.astype(np.float64)[:, :, None]
    ratio = np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0)
    return Int8Tensor(np.rint(ratio).astype(np.int8).reshape(x.shape), scales, group)
