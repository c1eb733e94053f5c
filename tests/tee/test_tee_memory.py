import fcntl
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_helpers import SMALL, Arena, memfd, memfd_secret

from tee_sim import memory
from tee_sim.client import TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.layout import KvLayout
from tee_sim.memory import Budget, MemoryTable, check_bounds, wipe
from tee_sim.protocol import Kind, KvCommand, MemoryKind, memref
from tee_sim.shared_memory import create_sealed_memfd


def refusal(call, *args, **kwargs):
    """The result code a call is refused with."""
    with pytest.raises(TeeError) as refused:
        call(*args, **kwargs)
    return refused.value.code


edges = st.sampled_from([0, 1, 15, 16, 17, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])


@given(edges | st.integers(0, 40), edges | st.integers(0, 40))
def test_a_range_is_accepted_exactly_when_it_lies_inside(offset, size):
    inside = offset + size <= 16  # Python integers do not overflow: the definition
    if inside:
        check_bounds(offset, size, 16)
    else:
        with pytest.raises(TeeError):
            check_bounds(offset, size, 16)


@pytest.mark.parametrize("offset,size", [(-1, 1), (0, -1), (5, -3)])
def test_negative_ranges_are_refused(offset, size):
    assert refusal(check_bounds, offset, size, 16) == ResultCode.BAD_PARAMETERS


@pytest.mark.parametrize(
    "seals",
    [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK],
)
@pytest.mark.parametrize("kind", list(MemoryKind))
def test_memory_without_both_size_seals_is_refused(seals, kind):
    fd = memfd(4096, seals)
    assert refusal(MemoryTable().register, fd, 4096, kind) == ResultCode.SECURITY
    with pytest.raises(OSError):
        os.fstat(fd)  # the table closed what it was given


def test_sealed_memory_can_not_be_shrunk_under_the_tee():
    fd = memfd(4096)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


@pytest.mark.parametrize("size", [0, 4097, 2**40, 2**64 - 1])
def test_a_size_beyond_the_memory_is_refused(size):
    fd = memfd(4096)
    assert refusal(MemoryTable().register, fd, size, MemoryKind.SHARED) == ResultCode.BAD_PARAMETERS


@pytest.mark.parametrize("make", ["pipe", "socket", "device", "directory", "file"])
@pytest.mark.parametrize("kind", list(MemoryKind))
def test_descriptors_that_are_not_memory_are_refused(make, kind, tmp_path):
    if make == "pipe":
        fd, other = os.pipe()
        os.close(other)
    elif make == "socket":
        fd = socket.socket().detach()
    elif make == "device":
        fd = os.open("/dev/zero", os.O_RDWR)
    elif make == "directory":
        fd = os.open(tmp_path, os.O_RDONLY)
    else:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 4096)
    assert refusal(MemoryTable().register, fd, 4096, kind) == ResultCode.SECURITY


def test_read_only_memory_is_refused_cleanly():
    fd = memfd(4096, memory.REQUIRED_SEALS | fcntl.F_SEAL_WRITE)
    assert refusal(MemoryTable().register, fd, 4096, MemoryKind.SHARED) == ResultCode.OUT_OF_MEMORY


def test_secret_memory_is_accepted_as_an_arena_only():
    fd = memfd_secret(4096)
    if fd is None:
        pytest.skip("this kernel has no memfd_secret")
    table = MemoryTable()
    assert refusal(table.register, os.dup(fd), 4096, MemoryKind.SHARED) == ResultCode.SECURITY
    assert table.register(fd, 4096, MemoryKind.ARENA) == 1


def test_the_number_of_regions_and_the_mapped_bytes_are_limited():
    table = MemoryTable()
    for _ in range(memory.MAX_REGIONS):
        table.register(memfd(4096), 4096, MemoryKind.SHARED)
    assert refusal(table.register, memfd(4096), 4096, MemoryKind.SHARED) == ResultCode.BUSY
    table = MemoryTable()
    big = memory.MAX_REGION_BYTES
    for _ in range(memory.MAX_MAPPED_BYTES // big):
        last = table.register(memfd(big), big, MemoryKind.SHARED)
    assert refusal(table.register, memfd(1), 1, MemoryKind.SHARED) == ResultCode.OUT_OF_MEMORY
    table.release(last)
    assert table.register(memfd(1), 1, MemoryKind.SHARED) == last + 1


def test_wiping_overwrites_every_byte():
    for size in (0, 1, 65_535, 65_536, 200_001):
        buffer = bytearray(b"\xff" * size)
        wipe(buffer)
        assert buffer == bytes(size)


def test_the_budget_refuses_without_taking_anything():
    budget = Budget(100)
    budget.charge(60)
    assert refusal(budget.charge, 41) == ResultCode.OUT_OF_MEMORY
    assert budget.used_bytes == 60
    budget.charge(40)
    budget.refund(100)
    assert budget.used_bytes == 0


def test_running_out_of_budget_leaves_the_session_usable(tee):
    model = tee.open_model(SMALL)
    used = tee.status()["used_bytes"]
    huge = KvLayout(512, 1024, 1024, 256, 256, 256)
    assert refusal(tee.open_model, huge) == ResultCode.OUT_OF_MEMORY
    shared = tee.register_memory(40 << 20)
    n_tokens = (40 << 20) // (SMALL.n_heads * SMALL.head_dim * 4)
    assert refusal(tee.unpermute, model, 0, shared, n_tokens) == ResultCode.OUT_OF_MEMORY
    assert tee.status()["used_bytes"] == used
    tee.unpermute(model, 0, shared, 1)
    tee.close_model(model)
    assert tee.status()["used_bytes"] == 0


def test_models_are_counted_until_the_budget_is_full(tee):
    layout = KvLayout(64, 64, 8, 128, 128, 32)
    models = []
    with pytest.raises(TeeError) as refused:
        for _ in range(100):
            models.append(tee.open_model(layout))
    assert refused.value.code == ResultCode.OUT_OF_MEMORY
    assert 2 <= len(models) < 100
    tee.close_model(models[0])
    assert tee.open_model(layout) > models[-1]


@pytest.mark.parametrize(
    "offset,size,code",
    [
        (0, 4097, ResultCode.BAD_PARAMETERS),
        (4096, 1, ResultCode.BAD_PARAMETERS),
        (2**64 - 1, 2, ResultCode.BAD_PARAMETERS),
        (2**64 - 128, 256, ResultCode.BAD_PARAMETERS),
        (1, 2**32 - 1, ResultCode.BAD_PARAMETERS),
    ],
)
def test_a_command_can_not_reach_outside_its_memory(tee, offset, size, code):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    shared.buffer[:] = b"\x5a" * 4096
    values = (*memref(shared.id, offset, size), model, 0, 1, 0, 0, 0)
    call = tee._channel.call
    request = {"session": tee._session, "command": KvCommand.UNPERMUTE, "types": 0x11F}
    assert refusal(call, Kind.INVOKE, "unpermute", **request, values=values) == code
    assert bytes(shared.buffer) == b"\x5a" * 4096


def test_an_arena_is_not_shared_memory_and_shared_memory_no_arena(tee, arena):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    arena_id = tee.register_fd(arena.fd, arena.size)
    assert refusal(tee.new_epoch, shared.id, 0) == ResultCode.ACCESS_DENIED
    values = (*memref(arena_id, 0, 128), model, 0, 1, 0, 0, 0)
    request = {"session": tee._session, "command": KvCommand.UNPERMUTE, "types": 0x11F}
    code = refusal(tee._channel.call, Kind.INVOKE, "unpermute", **request, values=values)
    assert code == ResultCode.ACCESS_DENIED


def test_the_client_can_not_register_unsealed_memory_as_an_arena(tee):
    fd = memfd(4096, 0)
    assert refusal(tee.register_fd, fd, 4096) == ResultCode.SECURITY
    os.close(fd)


def test_released_memory_is_gone_and_its_id_is_not_used_again(tee):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    shared.close()
    shared.close()
    assert refusal(tee.unpermute, model, 0, shared, 1) == ResultCode.ITEM_NOT_FOUND
    assert tee.register_memory(4096).id > shared.id
    assert tee.status()["regions"] == 1


def test_closing_memory_wipes_it_and_spares_arrays_made_from_it(tee):
    shared = tee.register_memory(4096)
    view = memoryview(shared._map)
    view[:4] = b"abcd"
    shared.close()
    assert bytes(view) == bytes(4096)


def test_both_kinds_of_arena_receive_the_key():
    for secret in (True, False):
        arena = Arena(secret=secret)
        with TeeClient.launch() as client:
            client.new_epoch(client.register_fd(arena.fd, arena.size), 64)
        assert arena.map[64:80] != bytes(16)
        assert arena.map[:64] == bytes(64) and arena.map[80:] == bytes(arena.size - 80)
        arena.close()


def test_memory_that_is_still_looked_at_is_released_all_the_same():
    table = MemoryTable()
    fd = create_sealed_memfd(8192)
    memory_id = table.register(os.dup(fd), 8192, MemoryKind.SHARED)
    held = table.shared_range(memory_id, 0, 16)
    table.release(memory_id)
    assert len(table) == 0 and refusal(table.get, memory_id) == ResultCode.ITEM_NOT_FOUND
    held[:4] = b"seen"  # the mapping lasts as long as it is held
    assert os.pread(fd, 4, 0) == b"seen"
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a file of such a name")
def test_a_file_with_the_name_of_secret_memory_is_no_arena():
    path = "/secretmem-not"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, 4096)
        code = refusal(MemoryTable().register, os.dup(fd), 4096, MemoryKind.ARENA)
        assert code == ResultCode.SECURITY
    finally:
        os.close(fd)
        os.unlink(path)
