"""The three kinds of weight the importer hands to the engine.

INT4 layout (the same nibble order as GGUF's Q4_0 and Q4_1): a row of K weights is a run of
32-element sub-blocks of 16 bytes; byte j of a sub-block holds element j in its low nibble and
element j + 16 in its high one. A weight is `scale * code + min`, code in 0..15, with one scale and
one min per `group` elements of the row.
"""

from dataclasses import dataclass

import numpy as np

SUB_BLOCK = 32  # elements packed together; every group is a multiple of it


@dataclass(frozen=True, slots=True, eq=False)
class Int4Tensor:
    """Group-wise 4-bit weights with a minimum."""

    codes: np.ndarray  # [N, K/2] uint8
    scales: np.ndarray  # [N, K/group] float16
    mins: np.ndarray  # [N, K/group] float16
    group: int  # elements per scale

    def __post_init__(self) -> None:
        rows, half = self.codes.shape
        if self.group % SUB_BLOCK or (2 * half) % self.group:
            raise ValueError(f"group {self.group} does not divide rows of {2 * half}")
        expected = (rows, 2 * half // self.group)
        if self.scales.shape != expected or self.mins.shape != expected:
            raise ValueError(
                f"scales {self.scales.shape}, mins {self.mins.shape}: expected {expected}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, K] in weights."""
        return (self.codes.shape[0], 2 * self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and mins."""
        return self.codes.nbytes + self.scales.nbytes + self.mins.nbytes

    def dequantize(self) -> np.ndarray:
        """Return the weights, [N, K] float32: scale * code + min in float32."""
        rows, columns = self.shape
        packed = self.codes.reshape(rows, -1, SUB_BLOCK // 2)
        codes = np.concatenate([packed & 0x0F, packed >> 4], axis=2).reshape(rows, -1, self.group)
        weights = codes.astype(np.float32)
        weights *= self.scales.astype(np.float32)[:, :, None]
        weights += self.mins.astype(np.float32)[:, :, None]
        return weights.reshape(rows, columns)

    def take_rows(self, rows: np.ndarray) -> "Int4Tensor":
        """Return the tensor whose row i is this one's row rows[i]."""
        return Int4Tensor(self.codes[rows], self.scales[rows], self.mins[rows], self.group)


@dataclass(frozen=True, slots=True, eq=False)
class Int8Tensor:
    """Symmetric 8-bit weights, one scale per `group` elements."""

    codes: np.ndarray  # [N, K] int8
    scales: np.ndarray  # [N, K/group] float16
    group: int = SUB_BLOCK

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        if columns % self.group or self.scales.shape != (rows, columns // self.group):
            raise ValueError(f"codes {self.codes.shape} and scales {self.scales.shape} disagree")

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, K] in weights."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self) -> np.ndarray:
        """Return the weights, [N, K] float32: scale * code in float32."""
        rows, columns = self.shape
        weights = self.codes.reshape(rows, -1, self.group).astype(np.float32)
        weights *= self.scales.astype(np.float32)[:, :, None]
        return weights.reshape(rows, columns)

    def take_rows(self, rows: np.ndarray) -> "Int8Tensor":
        """Return the tensor whose row i is this one's row rows[i]."""
        return Int8Tensor(self.codes[rows], self.scales[rows], self.group)


@dataclass(frozen=True, slots=True, eq=False)
class FloatTensor:
    """Weights that were not quantised: a norm, a bias, or a whole matrix."""

    data: np.ndarray  # [N, K] or [N], float32 or float16

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, K] or [N]."""
        return self.data.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.data.nbytes

    def dequantize(self) -> np.ndarray:
        """Return the weights in float32."""
        return self.data.astype(np.float32)

    def take_rows(self, rows: np.ndarray) -> "FloatTensor":
        """Return the tensor whose row i is this one's row rows[i]."""
        return FloatTensor(self.data[rows])


WeightTensor = Int4Tensor | Int8Tensor | FloatTensor
