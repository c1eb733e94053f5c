"""The TEE's native gather: equal to the formula, and unmoved by arguments that do not fit."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim._gather import gather


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 4), st.data())
def test_every_block_is_gathered_by_the_index(n, unit, blocks, data):
    index = array("I", data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    source = data.draw(st.binary(min_size=n * unit * blocks, max_size=n * unit * blocks))
    out = bytearray(b"\xa5" * len(source))
    gather(out, source, index, unit)
    expected = b"".join(
        source[(base + i) * unit : (base + i + 1) * unit]
        for base in range(0, n * blocks, n)
        for i in index
    )
    assert out == expected


@pytest.mark.parametrize(
    ("out_bytes", "source_bytes", "index", "unit", "message"),
    [
        (8, 8, array("I", [0, 2]), 4, "out of range"),
        (8, 8, array("I", [0, 0xFFFFFFFF]), 4, "out of range"),
        (8, 12, array("I", [0, 1]), 4, "equal length"),
        (12, 12, array("I", [0, 1]), 4, "whole blocks"),
        (8, 8, array("I", [0, 1]), 0, "unit"),
        (8, 8, array("I", [0, 1]), -4, "unit"),
        (8, 8, array("I", [0, 1]), (1 << 63) - 1, "unit"),
        (8, 8, array("I"), 4, "unit"),
        (8, 8, b"\0\0\0\0\0", 4, "uint32"),
        (8, 8, b"\0\0", 4, "unit"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    out_bytes, source_bytes, index, unit, message
):
    out = bytearray(b"\xa5" * out_bytes)
    with pytest.raises(ValueError, match=message):
        gather(out, bytes(source_bytes), index, unit)
    assert out == b"\xa5" * out_bytes


def test_an_output_that_overlaps_its_source_is_refused():
    memory = bytearray(range(12))
    with memoryview(memory) as view, pytest.raises(ValueError, match="overlaps"):
        gather(view[4:], view[:8], array("I", [0, 1]), 4)
    assert memory == bytearray(range(12))


def test_an_index_that_is_not_aligned_is_refused():
    memory = memoryview(bytearray(12))
    with pytest.raises(ValueError, match="uint32"):
        gather(bytearray(8), bytes(8), memory[1:9], 4)


def test_an_output_that_cannot_be_written_is_refused():
    with pytest.raises(TypeError):
        gather(bytes(8), bytes(8), array("I", [0, 1]), 4)
