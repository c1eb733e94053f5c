import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tee_helpers import SMALL

from tee_sim import channel, hardening, spawn
from tee_sim.client import TeeClient, TeeDeadError, TeeError
from tee_sim.errors import ResultCode

CHECKOUT = Path(__file__).resolve().parents[2]


def gone(pid):
    """Whether a process has ended (a zombie nobody reaped counts)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def start_host(body):
    """Run a separate host process that prints the pid of its TEE and does `body`."""
    program = (
        "import os, sys, time\n"
        "from tee_sim.client import TeeClient\n"
        "tee = TeeClient.launch()\n"
        "print(tee.pid, flush=True)\n" + body
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )


def test_killing_an_idle_tee_is_noticed_at_once_and_a_new_one_works(tee):
    assert tee.alive()
    os.kill(tee.pid, signal.SIGKILL)
    assert wait_for(lambda: not tee.alive(), 1.0)
    with pytest.raises(TeeDeadError) as dead:
        tee.open_model(SMALL)
    assert dead.value.code == ResultCode.TARGET_DEAD
    assert "gone" in str(dead.value) and "\n" not in str(dead.value)
    with TeeClient.launch() as fresh:
        assert fresh.open_model(SMALL) == 1


def test_killing_the_tee_in_the_middle_of_a_call_fails_that_call(tee):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    os.kill(tee.pid, signal.SIGSTOP)  # the call is now sure to be in flight
    failures = []

    def call():
        try:
            tee.unpermute(model, 0, shared, 1)
        except TeeError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    os.kill(tee.pid, signal.SIGKILL)
    thread.join(5)
    assert not thread.is_alive()
    assert [type(error) for error in failures] == [TeeDeadError]
    assert not tee.alive()
    with pytest.raises(TeeDeadError):
        tee.status()
    with TeeClient.launch() as fresh:
        fresh.unpermute(fresh.open_model(SMALL), 0, fresh.register_memory(4096), 1)


def test_a_tee_that_hangs_is_given_up(tee, monkeypatch):
    monkeypatch.setattr(channel, "CALL_TIMEOUT_S", 1)
    with TeeClient.launch() as client:
        os.kill(client.pid, signal.SIGSTOP)
        with pytest.raises(TeeDeadError, match="within 1 s"):
            client.status()
        assert not client.alive()
        assert gone(client.pid)


@pytest.mark.parametrize("state", ["idle", "socket held by a forked child"])
def test_the_tee_ends_with_its_host(state):
    hold = "if os.fork() == 0: time.sleep(30); os._exit(0)\n" if "fork" in state else ""
    host = start_host(hold + "time.sleep(60)\n")
    pid = int(host.stdout.readline())
    time.sleep(0.1)
    assert not gone(pid)
    host.kill()
    host.wait()
    assert wait_for(lambda: gone(pid))


def test_the_tee_outlives_the_thread_that_launched_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(TeeClient.launch()))
    thread.start()
    thread.join()
    with made[0] as client:
        time.sleep(0.05)
        assert client.status()["pid"] == client.pid


def test_closing_ends_the_process_and_is_idempotent():
    client = TeeClient.launch()
    client.register_memory(4096)
    client.close()
    client.close()
    assert gone(client.pid)
    assert not client.alive()
    with pytest.raises(TeeDeadError, match="closed"):
        client.status()


def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(tee):
    model = tee.open_model(SMALL)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            tee.status()
        except TeeError as error:
            code = 0 if error.code == ResultCode.BAD_STATE and not tee.alive() else 2
        tee.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert tee.permute_weights(model, 0, "q", bytes(32), 1) == bytes(32)


def test_the_process_starts_with_no_environment_and_one_descriptor(monkeypatch):
    monkeypatch.setenv("PTMO_TEST_MARKER", "must-not-be-inherited")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    with TeeClient.launch() as client:
        client.status()
        proc = Path(f"/proc/{client.pid}")
        if os.geteuid() != 0:
            pytest.skip("only root can look into a process that is not dumpable")
        assert (proc / "environ").read_bytes() == b"" and os.readlink(proc / "cwd") == "/"
        targets = sorted(os.readlink(link) for link in (proc / "fd").iterdir())
        kinds = [t.partition("[")[0] for t in targets]
        assert kinds == ["/dev/null", "/dev/null", "/dev/null", "anon_inode:", "socket:"]
        assert "pidfd" in targets[3]
        command = (proc / "cmdline").read_bytes().split(b"\0")
        assert command[1:4] == [b"-I", b"-S", b"-c"]
    os.close(read_end)
    os.close(write_end)


def test_start_up_protections_are_in_effect(tee):
    status = tee.status()
    assert all(status["hardening"].values())
    proc = Path(f"/proc/{tee.pid}")
    fields = dict(
        line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line
    )
    assert fields["NoNewPrivs"] == "1"
    limits = (proc / "limits").read_text().splitlines()
    core = next(line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    if os.geteuid() == 0:
        assert (proc / "mem").stat().st_uid == 0


def test_ctrl_c_in_the_terminal_does_not_reach_the_tee(tee):
    assert os.getsid(tee.pid) == tee.pid != os.getsid(0)


def test_a_missing_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(spawn._PACKAGES, "core", ("no_such_package_here",))
    with pytest.raises(TeeError, match="no_such_package_here is not installed"):
        TeeClient.launch()


def test_a_failing_start_reports_the_last_line(monkeypatch):
    monkeypatch.setattr(spawn, "_BOOTSTRAP", "raise ValueError('start-up broke')")
    with pytest.raises(TeeError, match="did not start: ValueError: start-up broke"):
        TeeClient.launch()


def test_an_interrupted_call_does_not_shift_the_replies(tee, monkeypatch):
    model = tee.open_model(SMALL)
    receive = channel.Channel._receive

    def interrupted(self):
        monkeypatch.setattr(channel.Channel, "_receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(channel.Channel, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tee.status()
    assert tee.permute_weights(model, 0, "q", bytes(32), 1) == bytes(32)
    assert tee.status()["debug"] is True


def test_importing_the_client_loads_nothing_of_the_trusted_side():
    program = (
        "import sys; import tee_sim.client; "
        "print([m for m in sys.modules if m.startswith(('tee_sim.keys', 'tee_sim.perm', "
        "'tee_sim.ta', 'tee_sim.guard', 'tee_sim.dispatch', 'tee_sim.daemon', 'cryptography'))])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_the_guard_process_loads_no_native_code_of_the_core():
    with TeeClient.launch("guard") as guard, TeeClient.launch() as core:
        assert guard.scan("hello").level == "PUBLIC"
        maps = {tee: Path(f"/proc/{tee.pid}/maps").read_text() for tee in (guard, core)}
    assert "tee_sim/_gather" in maps[core] and "tee_sim/_gather" not in maps[guard]


def in_child(work):
    """Run `work` in a forked child without privileges; return (pid, its output pipe)."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            work(write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    return child, read_end


def readable_by_its_own_user(harden):
    """Whether a process can be opened by another one of the same unprivileged user."""

    def target(out):
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # changing the uid cleared it: dumpable again
        if harden:
            hardening.begin(os.getppid())
        os.write(out, b"ready")
        time.sleep(30)

    def reader(out):
        try:
            os.close(os.open(f"/proc/{victim}/mem", os.O_RDONLY))
            os.write(out, b"read")
        except PermissionError:
            os.write(out, b"refused")

    victim, ready = in_child(target)
    assert os.read(ready, 16) == b"ready"
    child, answer = in_child(reader)
    outcome = os.read(answer, 16)
    os.kill(victim, signal.SIGKILL)
    for pid in (child, victim):
        os.waitpid(pid, 0)
    for fd in (ready, answer):
        os.close(fd)
    return outcome == b"read"


def test_another_process_of_the_same_user_can_not_read_a_hardened_one():
    if not readable_by_its_own_user(harden=False):
        pytest.skip("this system forbids it for every process (ptrace_scope)")
    assert not readable_by_its_own_user(harden=True)


@pytest.mark.parametrize("poll_us", [0, 1, 1000])
def test_a_tee_that_polls_answers_calls_that_come_at_once_and_later_and_ends_with_its_host(poll_us):
    with TeeClient.launch(poll_us=poll_us) as tee:
        for pause in (0.0, 0.0, 0.005, 0.0):
            time.sleep(pause)
            assert tee.status()["crossings"] == 0
        pid = tee.pid
    assert gone(pid)


@pytest.mark.parametrize("poll_us", [-1, 1001])
def test_a_time_to_poll_that_is_out_of_range_is_refused(poll_us):
    with pytest.raises(ValueError, match=rf"poll_us={poll_us} is outside 0..1000"):
        TeeClient.launch(poll_us=poll_us)
