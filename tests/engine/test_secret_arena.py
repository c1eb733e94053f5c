"""The arena that receives seal keys, with and without memfd_secret."""

import os

import pytest

from ptmo_secure import _native
from tee_sim.client import TeeClient
from tests.tee.memory_scan import flags_of


@pytest.fixture(scope="module")
def tee():
    with TeeClient.launch() as client:
        yield client


@pytest.mark.parametrize("allow", [True, False])
def test_a_key_delivered_into_the_arena_opens_a_sealed_session(tee, allow):
    arena = _native.SecretArena(4096, allow)
    if allow and arena.kind != "memfd_secret":
        pytest.skip("this kernel has no memfd_secret")
    assert arena.kind == ("memfd_secret" if allow else "mlock")
    identifier = tee.register_fd(arena.fd, arena.size)
    descriptor = arena.fd
    arena.close_fd()
    assert arena.fd == -1
    with pytest.raises(OSError):
        os.fstat(descriptor)
    slot = arena.take_slot()
    _, epoch = tee.new_epoch(identifier, slot)
    layout = _native.PageLayout(1, 1, 16, 16, _native.KvType.int8)
    session = _native.KvSession(_native.PageArena(layout, 1), 1, epoch, arena, slot)
    assert session.sealed


def test_a_slot_without_a_key_opens_no_session():
    arena = _native.SecretArena(4096)
    layout = _native.PageLayout(1, 1, 16, 16, _native.KvType.int8)
    pages = _native.PageArena(layout, 1)
    with pytest.raises(RuntimeError, match="no seal key"):
        _native.KvSession(pages, 1, 0, arena, arena.take_slot())


def test_slots_run_out_with_an_error_and_come_back():
    arena = _native.SecretArena(4096)
    slots = [arena.take_slot() for _ in range(16)]
    assert len(set(slots)) == 16
    with pytest.raises(RuntimeError, match="16 key slots are all in use"):
        arena.take_slot()
    arena.free_slot(slots[3])
    assert arena.take_slot() == slots[3]
    with pytest.raises(ValueError, match="no slot in use"):
        arena.free_slot(7)


@pytest.mark.skipif(os.geteuid() != 0, reason="reads memory the way root would")
def test_root_cannot_read_a_memfd_secret_arena():
    arena = _native.SecretArena(4096)
    if arena.kind != "memfd_secret":
        pytest.skip("this kernel has no memfd_secret")
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0] for line in maps if "secretmem" in line]
    assert spans
    start = int(spans[0].split("-")[0], 16)
    with open("/proc/self/mem", "rb", 0) as memory, pytest.raises(OSError):
        memory.seek(start)
        memory.read(16)


@pytest.mark.parametrize("allow", [True, False])
def test_an_arena_is_locked_and_in_no_core_file_and_no_fork(allow):
    def starts():
        with open("/proc/self/maps") as maps:
            named = (line for line in maps if "secretmem" in line or "ptmo-secret-arena" in line)
            return {int(line.partition("-")[0], 16) for line in named}

    others = starts()  # of arenas and keys that this process keeps elsewhere
    arena = _native.SecretArena(4096, allow)
    (start,) = starts() - others
    assert flags_of(start) >= {"dd", "dc", "lo"} and arena.fd >= 0


@pytest.mark.parametrize("allow", [True, False])
def test_a_forked_child_has_no_arena(allow):
    arena = _native.SecretArena(4096, allow)
    arena.close_fd()  # as the engine does: no descriptor leads there either

    def mapped():
        with open("/proc/self/maps") as maps:
            return sum("secretmem" in line or "ptmo-secret-arena" in line for line in maps)

    assert mapped() >= 1
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(mapped()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 64) == b"0"
    os.close(reader)
    os.close(writer)
