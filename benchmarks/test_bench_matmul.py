"""INT4 and INT8 matrices at the layer shapes of five models: one token, a chunk, the head."""

from typing import Any

import pytest
from kernel_timing import RESIDENT, ROTATED_BYTES, time_kernel
from shapes import CHUNK_TOKENS, HEADS, LINEARS, LinearShape

from ptmo_secure import _native

FORMATS = (
    ("int4", 32),  # Q4_1
    ("int4-symmetric", 32),  # Q4_0
    ("int4-symmetric", 64),
    ("int4-symmetric", 128),
)
INT4_CASES = [
    pytest.param(shape, kind, group, id=f"{shape}-{kind}-g{group}")
    for shape in LINEARS
    for kind, group in FORMATS
    if shape.cols % group == 0
]


def run(benchmark: Any, shape: LinearShape, threads: int, **fields: Any) -> None:
    fields |= {"activation_bits": shape.activation_bits, "threads": threads}
    bench = _native.MatmulBench(rows=shape.rows, cols=shape.cols, **fields)
    time_kernel(benchmark, bench, threads, shape.rows * shape.cols * fields["tokens"])


@pytest.mark.parametrize(("shape", "kind", "group"), INT4_CASES)
def test_gemv(benchmark: Any, shape: LinearShape, kind: str, group: int, threads: int) -> None:
    fields = {"type": kind, "group": group, "working_set_bytes": ROTATED_BYTES}
    run(benchmark, shape, threads, tokens=1, **fields)


@pytest.mark.parametrize(("shape", "kind", "group"), INT4_CASES)
def test_gemm(benchmark: Any, shape: LinearShape, kind: str, group: int, threads: int) -> None:
    fields = {"type": kind, "group": group, "working_set_bytes": RESIDENT}
    run(benchmark, shape, threads, tokens=CHUNK_TOKENS, **fields)


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_head(benchmark: Any, shape: LinearShape, threads: int) -> None:
    fields = {"type": "int8", "group": 32, "working_set_bytes": ROTATED_BYTES}
    run(benchmark, shape, threads, tokens=1, **fields)
