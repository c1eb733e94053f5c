"""INT4 and INT8 matrices at the layer shapes of five models: one token, a chunk, the head."""

from typing import Any

import pytest
from kernel_timing import RESIDENT, ROTATED_BYTES, time_kernel
from shapes import HEADS, LINEARS, LinearShape

from ptmo_secure import _native

CHUNK_TOKENS = 128  # the engine's prefill chunk
HEAD_ROWS = 2  # the head reads two INT8 planes of a token's activations (kernels/README.md)
INT4_CASES = [
    pytest.param(shape, group, id=f"{shape}-g{group}")
    for shape in LINEARS
    for group in (32, 64, 128)
    if shape.cols % group == 0
]


def run(benchmark: Any, shape: LinearShape, threads: int, **fields: Any) -> None:
    bench = _native.MatmulBench(rows=shape.rows, cols=shape.cols, threads=threads, **fields)
    time_kernel(benchmark, bench, threads, shape.rows * shape.cols * fields["tokens"])


@pytest.mark.parametrize(("shape", "group"), INT4_CASES)
def test_int4_gemv(benchmark: Any, shape: LinearShape, group: int, threads: int) -> None:
    run(
        *(benchmark, shape, threads),
        type="int4",
        group=group,
        tokens=1,
        working_set_bytes=ROTATED_BYTES,
    )


@pytest.mark.parametrize(("shape", "group"), INT4_CASES)
def test_int4_gemm(benchmark: Any, shape: LinearShape, group: int, threads: int) -> None:
    run(
        *(benchmark, shape, threads),
        type="int4",
        group=group,
        tokens=CHUNK_TOKENS,
        working_set_bytes=RESIDENT,
    )


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_int8_head(benchmark: Any, shape: LinearShape, threads: int) -> None:
    run(
        *(benchmark, shape, threads),
        type="int8",
        group=32,
        tokens=HEAD_ROWS,
        working_set_bytes=ROTATED_BYTES,
    )
