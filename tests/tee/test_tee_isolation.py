"""What a TEE process can no longer do once it runs: open, start, connect, execute, be read."""

import ctypes
import errno
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tee_sim import hardening, seccomp
from tee_sim.client import TeeClient
from tee_sim.protocol import HARDENING_BITS

ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000
CHECKOUT = Path(__file__).resolve().parents[2]
COMPILERS = {"x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc"}


@pytest.fixture(params=["core", "guard"])
def tee(request):
    with TeeClient.launch(request.param) as client:
        yield client


def fields_of(path):
    lines = path.read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_every_thread_of_a_running_tee_is_confined(tee):
    tasks = sorted(Path(f"/proc/{tee.pid}/task").iterdir())
    assert len(tasks) == 2  # the service, and the watch over its host
    for task in tasks:
        fields = fields_of(task / "status")
        assert fields["Seccomp"] == "2" and fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) == 0 or os.geteuid() != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the TEE a user of its own")
def test_a_tee_that_root_started_is_nobodys(tee):
    fields = fields_of(Path(f"/proc/{tee.pid}/status"))
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"65534"}
    assert fields["Groups"].split() == []
    assert (Path(f"/proc/{tee.pid}") / "mem").stat().st_uid == 0  # not dumpable: not even its own


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has groups to give up")
def test_a_tee_keeps_none_of_the_groups_of_the_root_that_started_it():
    program = (
        "from tee_sim.client import TeeClient\n"
        "with TeeClient.launch() as tee:\n"
        "    print(*(open(f'/proc/{pid}/status').read() for pid in ('self', tee.pid)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        extra_groups=[4, 4242],
        capture_output=True,
        text=True,
        check=True,
    )
    groups = [line for line in done.stdout.splitlines() if line.startswith("Groups:")]
    assert [line.split()[1:] for line in groups] == [["4", "4242"], []]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into a process not dumpable")
def test_a_running_tee_has_a_network_and_ipc_of_its_own_with_no_route_and_no_address(tee):
    for space in ("net", "ipc"):
        inside, outside = (os.readlink(f"/proc/{pid}/ns/{space}") for pid in (tee.pid, "self"))
        assert inside.startswith(f"{space}:[") and inside != outside
    network = Path(f"/proc/{tee.pid}/net")
    devices = [line.partition(":")[0].strip() for line in (network / "dev").open() if ":" in line]
    assert devices == ["lo"]  # every namespace is born with it, down
    assert "LOCAL" in Path("/proc/self/net/fib_trie").read_text()  # ours has addresses
    assert "LOCAL" not in (network / "fib_trie").read_text()
    assert (network / "route").read_text().splitlines()[1:] == []  # after the heading, if any


def confined(attempt, *, as_root=True):
    """What `attempt` returns in a child under all protections, or the signal that ended it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not as_root and os.geteuid() == 0:
                os.setresgid(65533, 65533, 65533)
                os.setresuid(65533, 65533, 65533)
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as a user's process is
            bits = hardening.finish(hardening.begin(os.getppid()))
            os.write(write_end, str(attempt(bits)).encode())
        except OSError as error:
            os.write(write_end, errno.errorcode[error.errno].encode())
        except RuntimeError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 4096).decode()
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else answer


def test_a_process_of_a_user_gets_all_but_a_user_of_its_own():
    bits = int(confined(lambda bits: bits, as_root=False))
    missing = {name for bit, name in enumerate(HARDENING_BITS) if not bits >> bit & 1}
    assert missing == {"own_user", "secret_memory"}  # the second is the daemon's own
    # In its namespace of users it is still itself: owners of files can be told apart.
    assert confined(lambda _: (os.geteuid(), os.getegid()), as_root=False) == "(65533, 65533)"


@pytest.mark.parametrize("as_root", [True, False])
@pytest.mark.parametrize("space", ["net", "ipc"])
def test_who_starts_it_does_not_matter_for_its_namespaces(space, as_root):
    outside = os.readlink(f"/proc/self/ns/{space}")
    inside = confined(lambda _: os.readlink(f"/proc/self/ns/{space}"), as_root=as_root)
    assert inside.startswith(f"{space}:[") and inside != outside


@pytest.mark.parametrize(
    "attempt",
    [
        lambda _: os.open("/etc/passwd", os.O_RDONLY),
        lambda _: os.open(f"{__file__}.left", os.O_WRONLY | os.O_CREAT),
        lambda _: os.listdir("/"),
        lambda _: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        lambda _: os.memfd_create("x"),
        lambda _: os.kill(os.getpid(), 0),  # which nothing but the filter refuses
        lambda _: os.pidfd_open(os.getppid()),
    ],
    ids=["read", "create", "list", "execute", "memfd", "signal", "pidfd"],
)
def test_what_a_library_may_try_is_refused_as_an_error(attempt):
    assert confined(attempt) == "EPERM"


def test_no_further_thread_starts():
    assert "can't start new thread" in confined(lambda _: threading.Thread(target=int).start())


@pytest.mark.parametrize(
    "attempt",
    [
        lambda _: socket.socket(),
        lambda _: os.execv("/bin/true", ["true"]),
        lambda _: ctypes.CDLL(None).ptrace(0, 0, 0, 0),
        lambda _: os.setuid(0),
    ],
    ids=["socket", "exec", "ptrace", "setuid"],
)
def test_what_only_an_intruder_tries_ends_the_process(attempt):
    assert confined(attempt) == "SIGSYS"


def test_what_it_needs_still_works():
    def work(_):
        memory = mmap.mmap(-1, 1 << 20)
        memory[:4] = os.urandom(4)
        grown = bytearray(1 << 22)
        return len(memory) + len(grown)

    assert confined(work) == str((1 << 20) + (1 << 22))


# ---------------------------------------------------------------- the filter, as a program


def run(code, arch, number, third=0):
    """What a filter answers to a system call: classic BPF, as far as the filter goes."""
    data = struct.pack("<iIQ6Q", number, arch, 0, 0, 0, third, 0, 0, 0)
    at, held = 0, 0
    while True:
        op, then, otherwise, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if op == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        elif op == 0x06:
            return value
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[op]
            at += then if holds else otherwise


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_answers_as_listed(machine):
    code, (arch, _) = seccomp.program(machine), seccomp._MACHINES[machine]
    column = list(seccomp._MACHINES).index(machine)
    expected = dict.fromkeys(range(600), EPERM)
    for calls, answer in ((seccomp._ALLOWED, ALLOW), (seccomp._DEADLY, KILL)):
        expected.update({numbers[column]: answer for numbers in calls.values()})
    expected.pop(None, None)
    for numbers in seccomp._WITHOUT_EXEC.values():
        expected[numbers[column]] = ALLOW
        assert run(code, arch, numbers[column], third=4) == EPERM
        assert run(code, arch, numbers[column], third=7) == EPERM
        assert run(code, arch, numbers[column], third=3) == ALLOW
    assert {number: run(code, arch, number) for number in expected} == expected
    assert run(code, arch, 0x40000000) == run(code, arch ^ 1, 63) == KILL


def test_the_document_names_every_protection_and_counts_the_calls():
    page = (CHECKOUT / "docs" / "tee.md").read_text()
    table = page.split("\n## Start-up protections\n")[1].split("\n## ")[0]
    named = re.findall("`(\\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted(HARDENING_BITS)
    claim = re.search(r"^\| -70005 \| hardening \|(.*)$", page, re.MULTILINE)[1]
    assert re.findall("`(\\w+)`", claim) == list(HARDENING_BITS)
    allowed = {**seccomp._ALLOWED, **seccomp._WITHOUT_EXEC}.values()
    counts = [sum(numbers[column] is not None for numbers in allowed) for column in range(2)]
    assert "{} calls of x86-64, {} of ARM64".format(*counts) in table


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernels_headers(machine):
    compiler = shutil.which(COMPILERS[machine])
    if compiler is None:
        pytest.skip(f"no compiler with headers of {machine}")
    calls = {**seccomp._ALLOWED, **seccomp._WITHOUT_EXEC, **seccomp._DEADLY}
    source = "#include <sys/syscall.h>\n" + "".join(f"{name}=SYS_{name}\n" for name in calls)
    command = [compiler, "-E", "-P", "-x", "c", "-"]
    found = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    lines = dict(line.split("=") for line in found.stdout.split() if "=" in line)
    column = list(seccomp._MACHINES).index(machine)
    for name, numbers in calls.items():
        known = lines[name].isdigit()
        assert (int(lines[name]) if known else None) == numbers[column], name
