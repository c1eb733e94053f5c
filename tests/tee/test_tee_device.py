"""The simulated device: fuses that outlive a process, and epochs that never come twice."""

import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from tee_helpers import ROOT_KEY, SMALL, Arena

from tee_sim import device, keys
from tee_sim.client import ResultCode, TeeClient, TeeError
from tee_sim.device import FUSE_BYTES, FUSE_MAGIC, Device, read_fuses
from tee_sim.memory import Budget


@pytest.fixture
def fuses(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "fuses"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(device, "_LOCK_SECONDS", 0.05)


def read_once(path):
    key, fd = read_fuses(str(path))
    os.close(fd)
    return bytes(key)


def start(path, record=b""):
    """A started device: (client, its store, the record to keep)."""
    tee = TeeClient.launch(fuses=path)
    store = tee.open_store()
    return tee, store, store.start(record)


def test_the_first_read_makes_the_fuses_and_later_ones_find_them(fuses):
    key = read_once(fuses)
    assert len(key) == 32 and read_once(fuses) == key
    assert stat.S_IMODE(fuses.stat().st_mode) == 0o600 and fuses.stat().st_size == FUSE_BYTES
    assert [path.name for path in fuses.parent.iterdir()] == ["fuses"]
    assert key in fuses.read_bytes()
    fuses.unlink()
    assert read_once(fuses) != key


def test_fuses_made_by_many_at_once_are_made_once(fuses, monkeypatch):
    made, barrier = [], threading.Barrier(4)

    def make():
        barrier.wait()
        device._burn(str(fuses))
        made.append(fuses.read_bytes())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1
    assert [path.name for path in fuses.parent.iterdir()] == ["fuses"]


def test_fuses_that_could_not_be_written_leave_nothing(fuses, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(device.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        read_fuses(str(fuses))
    assert list(fuses.parent.iterdir()) == []


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda path: path.chmod(0o640), "mode 640: chmod 600"),
        (lambda path: path.chmod(0o602), "mode 602: chmod 600"),
        (
            lambda path: path.parent.chmod(0o770),
            "can be changed by others: chmod 700",
        ),
        (
            lambda path: path.parent.chmod(0o707),
            "can be changed by others: chmod 700",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "damaged"),
        (lambda path: path.write_bytes(bytes(FUSE_BYTES)), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: (path.rename(f"{path}.x"), path.symlink_to(f"{path}.x")), "symbolic links"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "symbolic links"),
    ],
)
def test_fuses_that_others_can_reach_or_that_are_damaged_are_refused(fuses, spoil, message):
    read_once(fuses)
    spoil(fuses)
    with pytest.raises(TeeError, match=message) as refused:
        TeeClient.launch(fuses=fuses)
    assert str(fuses) in str(refused.value) and "\n" not in str(refused.value)


def test_every_changed_byte_of_the_fuses_is_noticed(fuses):
    read_once(fuses)
    whole = fuses.read_bytes()
    for at in range(len(whole)):
        fuses.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            read_fuses(str(fuses))
    fuses.write_bytes(whole)
    assert read_once(fuses) == whole[len(FUSE_MAGIC) : -4]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_fuses_of_another_user_are_refused(fuses, which):
    read_once(fuses)
    os.chown(fuses if which == "file" else fuses.parent, 12345, 12345)
    with pytest.raises(ValueError, match=f"{which} .*belongs to another user"):
        read_fuses(str(fuses))


def test_one_device_has_one_secure_world_at_a_time(fuses, quick):
    key, fd = read_fuses(str(fuses))
    with pytest.raises(BlockingIOError, match="another TEE runs on this device"):
        read_fuses(str(fuses))
    with pytest.raises(TeeError, match="another TEE runs on this device"):
        TeeClient.launch(fuses=fuses)
    os.close(fd)
    assert read_once(fuses) == bytes(key)


def test_a_killed_tee_lets_go_of_its_device(fuses):
    tee, _, record = start(fuses)
    os.kill(tee.pid, signal.SIGKILL)
    again, _, _ = start(fuses, record)
    again.close()
    tee.close()


def test_fuses_are_for_the_core_and_without_a_debug_key(fuses):
    with pytest.raises(ValueError, match="'guard' has no fuses"):
        TeeClient.launch("guard", fuses=fuses)
    with pytest.raises(ValueError, match="exclude each other"):
        TeeClient.launch(debug_root_key=ROOT_KEY, fuses=fuses)
    with pytest.raises(ValueError, match="fuses='' names no file"):
        TeeClient.launch(fuses="")
    assert not fuses.exists()


def test_a_device_with_fuses_draws_no_epoch_before_its_counter_was_started(fuses):
    arena = Arena()
    with TeeClient.launch(fuses=fuses) as tee:
        arena_id = tee.register_fd(arena.fd, arena.size)
        for call in (lambda: tee.open_model(SMALL), lambda: tee.new_epoch(arena_id, 0)):
            with pytest.raises(TeeError) as refused:
                call()
            assert refused.value.code == ResultCode.BAD_STATE
        assert tee.status()["used_bytes"] == 0 and not any(arena.map[:])
        tee.open_store().start(b"")
        assert tee.new_epoch(arena_id, 0)[1] == 1 << 32 | 1
    arena.close()


def test_epoch_numbers_never_come_twice_and_neither_do_keys(fuses):
    arena, record, drawn, seen = Arena(), b"", [], set()
    for boot in range(1, 4):
        tee, _, record = start(fuses, record)
        arena_id = tee.register_fd(arena.fd, arena.size)
        for _ in range(3):
            drawn.append(tee.new_epoch(arena_id, 0)[1])
            seen.add(bytes(arena.map[:16]))
        assert tee.status()["epoch"] == drawn[-1]
        assert drawn[-1] >> 32 == boot
        tee.close()
    assert drawn == sorted(set(drawn)) and len(seen) == len(drawn) == 9
    arena.close()


def test_who_rolls_the_counter_back_gets_the_numbers_again_but_not_the_keys(fuses):
    arena, outcomes = Arena(), []
    first, _, record = start(fuses)
    first.close()
    for _ in range(2):
        tee, _, _ = start(fuses, record)  # the same record twice
        epoch = tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
        outcomes.append((epoch, bytes(arena.map[:16])))
        tee.close()
    assert outcomes[0][0] == outcomes[1][0]
    assert outcomes[0][1] != outcomes[1][1]
    arena.close()


def test_the_key_of_a_saved_session_is_the_same_after_a_restart_with_fuses_only(fuses):
    arena, drawn = Arena(), []
    record = b""
    for _ in range(2):
        tee, _, record = start(fuses, record)
        tee.storage_key(tee.register_fd(arena.fd, arena.size), 0, bytes(32), bytes(16))
        drawn.append(bytes(arena.map[:32]))
        tee.close()
    key = read_once(fuses)
    assert drawn[0] == drawn[1] == keys.saved_session_key(key, bytes(32), bytes(16))
    with TeeClient.launch() as other:
        other.storage_key(other.register_fd(arena.fd, arena.size), 0, bytes(32), bytes(16))
        assert arena.map[:32] != drawn[0]
    arena.close()


def test_epochs_of_one_start_end_before_they_reach_the_next_ones():
    made = Device(Budget(), bytearray(ROOT_KEY), fused=True)
    made.counter.start(b"")
    made.epoch = (1 << 32) - 2
    assert made.next_epoch() == (1 << 32) + (1 << 32) - 1
    with pytest.raises(TeeError, match="no epoch number is left"):
        made.next_epoch()


def test_the_fuse_file_is_the_only_file_a_tee_keeps_open(fuses):
    tee, _, _ = start(fuses)
    if os.geteuid() != 0:
        pytest.skip("only root can look into a process that is not dumpable")
    links = [os.readlink(link) for link in Path(f"/proc/{tee.pid}/fd").iterdir()]
    tee.close()
    files = [link for link in links if link.startswith("/") and link != "/dev/null"]
    assert [link for link in files if not link.startswith("/memfd:")] == [str(fuses)]


def test_fuses_serve_one_initialisation_and_no_key_of_the_hosts(tmp_path):
    """A second one would run on a key that the first overwrote."""
    from tee_sim import daemon
    from tee_sim.memory import Budget

    path = str(tmp_path / "fuses")
    load, _ = daemon._loader("core", path)
    with pytest.raises(TeeError) as refused:
        load(Budget(), bytearray(ROOT_KEY))
    assert refused.value.code == ResultCode.BAD_STATE
    with pytest.raises(TeeError) as refused:
        load(Budget(), None)
    assert refused.value.code == ResultCode.BAD_STATE
