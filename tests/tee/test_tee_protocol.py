import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tee_sim.errors import Origin, ResultCode, TeeDeadError, TeeError
from tee_sim.protocol import (
    FRAME_BYTES,
    MAX_PACKET_BYTES,
    ParamType,
    decode,
    encode,
    memref,
    param_types,
    split_memref,
)

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
eight = st.tuples(*[u64] * 8)
SAMPLE = encode(4, 1, 4, 0x11F, 0, 7, (1, 2, 3, 4, 5, 6, 7, 8))


@given(u16, u32, u32, u16, u16, u64, eight)
def test_decode_returns_what_encode_was_given(kind, session, command, types, origin, seq, values):
    packet = encode(kind, session, command, types, origin, seq, values)
    assert len(packet) == FRAME_BYTES <= MAX_PACKET_BYTES
    assert decode(packet) == (kind, session, command, types, origin, seq, values)


@pytest.mark.parametrize("position", range(FRAME_BYTES))
def test_a_flip_of_any_byte_is_refused(position):
    packet = bytearray(SAMPLE)
    packet[position] ^= 0x41
    with pytest.raises(TeeError) as refused:
        decode(bytes(packet))
    assert (refused.value.code, refused.value.origin) == (ResultCode.BAD_FORMAT, Origin.COMMS)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(TeeError):
        decode(data)


@pytest.mark.parametrize("packet", [SAMPLE[:-1], SAMPLE + b"\0", SAMPLE * 2, b""])
def test_a_packet_of_another_length_is_refused(packet):
    with pytest.raises(TeeError, match="length"):
        decode(packet)


def test_the_layout_of_a_frame_is_the_documented_one():
    assert FRAME_BYTES == 96
    assert struct.unpack_from("<IHHIIHHQ8Q", SAMPLE) == (
        0x45544D50, 1, 4, 1, 4, 0x11F, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8,
    )  # fmt: skip


@given(u32, u64, u32)
def test_memory_references_keep_their_three_numbers(memory_id, offset, size):
    assert split_memref(*memref(memory_id, offset, size)) == (memory_id, offset, size)


def test_parameter_types_pack_from_the_lowest_bits():
    assert param_types(ParamType.MEMREF_INOUT, ParamType.VALUE_INPUT) == 0x1F


def test_errors_name_their_code_and_origin():
    error = TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP)
    assert (error.code, error.origin) == (0xFFFF000C, 4)
    assert "OUT_OF_MEMORY" in str(error) and "TRUSTED_APP" in str(error)
    assert "0x12345678" in str(TeeError(0x12345678))
    assert isinstance(TeeDeadError(), TeeError) and isinstance(TeeDeadError(), RuntimeError)
    assert "\n" not in str(TeeDeadError())
