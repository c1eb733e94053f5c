"""Kernels without weights, at the vector lengths of five models; all stays in the first cache."""

from typing import Any

import pytest
from kernel_timing import time_kernel
from shapes import MODELS

from ptmo_secure import _native

LENGTHS = {
    "rms_norm": {model.d_model for model in MODELS},
    "quantize_blocks": {length for m in MODELS for length in (m.d_model, m.d_ff)},
    "quantize_blocks_16": {length for m in MODELS for length in (m.d_model, m.d_ff)},
    "head_rms_norm": {model.head_dim for model in MODELS},
    "swiglu": {model.d_ff for model in MODELS},
    "geglu": {model.d_ff for model in MODELS},
    "add": {model.d_model for model in MODELS},
    "cos_sin": {model.head_dim // 2 for model in MODELS},
    "rope": {model.head_dim for model in MODELS},
    "quantize_row_i8": {model.head_dim for model in MODELS},
    "quantize_row_i16": {model.head_dim for model in MODELS},
    "quantize_row_i4": {model.head_dim for model in MODELS},
    "unpack_rows_i4": {model.head_dim for model in MODELS},
    "fold_partials": {model.head_dim for model in MODELS},
    "to_f16": {model.head_dim for model in MODELS},
}
CASES = [(kernel, length) for kernel, lengths in LENGTHS.items() for length in sorted(lengths)]


@pytest.mark.parametrize(("kernel", "length"), CASES)
def test_vector(benchmark: Any, kernel: str, length: int) -> None:
    time_kernel(benchmark, _native.VectorBench(kernel, length), threads=1)
