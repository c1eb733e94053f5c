"""B u of INT8 adapters of three ranks at the layer shapes of five models: one token, a chunk."""

from typing import Any

import pytest
from kernel_timing import RESIDENT, ROTATED_BYTES, time_kernel
from shapes import CHUNK_TOKENS, LINEARS, LinearShape

from ptmo_secure import _native

# The rows of B are those of the layer; layers of a model with equally many are timed once.
SHAPES = tuple({(shape.model, shape.rows): shape for shape in LINEARS}.values())
SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.model}-{shape.rows}")


def run(
    benchmark: Any, shape: LinearShape, rank: int, tokens: int, threads: int, working_set: int
) -> None:
    bench = _native.LowRankBench(
        rows=shape.rows, rank=rank, tokens=tokens, threads=threads, working_set_bytes=working_set
    )
    time_kernel(benchmark, bench, threads, shape.rows * rank * tokens)


@pytest.mark.parametrize("rank", [8, 16, 64], ids=lambda rank: f"r{rank}")
@SHAPE
def test_low_rank_decode(benchmark: Any, shape: LinearShape, rank: int, threads: int) -> None:
    run(benchmark, shape, rank, 1, threads, ROTATED_BYTES)


@SHAPE
def test_low_rank_prefill(benchmark: Any, shape: LinearShape, threads: int) -> None:
    run(benchmark, shape, 16, CHUNK_TOKENS, threads, RESIDENT)
