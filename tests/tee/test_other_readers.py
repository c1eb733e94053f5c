"""Who may read the memory of a running TEE: no user, not even its own, in none of three ways."""

import ctypes
import errno
import os
import re
from pathlib import Path

import pytest
from tee_helpers import Arena

from tee_sim.client import TeeClient

LIBC = ctypes.CDLL(None, use_errno=True)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
PTRACE_SEIZE = 0x4206
NOBODY, STRANGER = 65534, 65533  # a TEE that root started is the first


class Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_by_file(pid, address):
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, 16, address)
    finally:
        os.close(fd)


def read_by_call(pid, address):
    """process_vm_readv(2)."""
    local = ctypes.create_string_buffer(16)
    ours, theirs = Span(ctypes.addressof(local), 16), Span(address, 16)
    got = LIBC.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    if got < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return local.raw[:got]


def attach(pid, address):
    if LIBC.ptrace(PTRACE_SEIZE, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return b"attached" * 2


WAYS = {"file": read_by_file, "call": read_by_call, "ptrace": attach}


def writable_address(pid):
    """The start of the heap, as whoever may read the map sees it."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return int(re.search(r"^(\w+)-\w+ rw.*\[heap\]", maps, re.MULTILINE)[1], 16)


def as_user(user, work):
    """What `work` returns in a child of another user: bytes read, or the name of an error."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            os.write(write_end, b"read %d" % len(work()))
        except OSError as error:
            os.write(write_end, errno.errorcode[error.errno].encode())
        finally:
            os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 64).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    return answer


@pytest.fixture(params=["core", "guard"])
def tee(request):
    with TeeClient.launch(request.param) as client:
        yield client


@ROOT_ONLY
@pytest.mark.parametrize("user", [STRANGER, NOBODY])
@pytest.mark.parametrize("way", WAYS)
def test_no_other_user_reads_a_tee_and_not_the_one_it_runs_as(tee, way, user):
    address = writable_address(tee.pid)
    assert as_user(user, lambda: WAYS[way](tee.pid, address)) in ("EACCES", "EPERM")
    for look in (
        lambda: Path(f"/proc/{tee.pid}/maps").read_bytes(),
        lambda: Path(f"/proc/{tee.pid}/environ").read_bytes(),
        lambda: os.listdir(f"/proc/{tee.pid}/fd"),
    ):
        assert as_user(user, look) in ("EACCES", "EPERM")
    assert tee.status()["pid"] == tee.pid


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_to_read_do_work_on_a_process_that_allows_it(way):
    """The same calls, as the same kind of user, on a child of that user."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and int(scope.read_text()) > 1:
        pytest.skip("this system forbids it for every process (ptrace_scope)")

    def read_own_child():
        LIBC.prctl(4, 1, 0, 0, 0)  # dumpable, as a user's process is after it was started
        text = ctypes.create_string_buffer(b"sixteen bytes...")
        child = os.fork()
        if child == 0:
            LIBC.pause()
            os._exit(0)
        try:
            return WAYS[way](child, ctypes.addressof(text))
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)

    assert as_user(STRANGER, read_own_child) == "read 16"


@ROOT_ONLY
def test_root_reads_a_tees_heap_which_is_not_claimed_otherwise(tee):
    assert len(read_by_file(tee.pid, writable_address(tee.pid))) == 16


@pytest.mark.parametrize("way", ["file", "call"])
def test_no_process_but_its_owner_reads_a_secret_arena_not_even_roots(way):
    arena = Arena()
    if not os.readlink(f"/proc/self/fd/{arena.fd}").startswith("/secretmem"):
        arena.close()
        pytest.skip("this kernel has no memfd_secret")
    with TeeClient.launch() as tee:
        tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
        assert arena.map[:16] != bytes(16)  # its owner does read it
        address = ctypes.addressof(ctypes.c_char.from_buffer(arena.map))
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                WAYS[way](parent, address)
            except OSError as error:
                code = 0 if error.errno in (errno.EIO, errno.EFAULT, errno.EPERM) else 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    del address
