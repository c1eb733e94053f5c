"""Threads that seal into one place, hosts that want one folder, and children that were forked."""

import gc
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ptmo_secure.errors import EngineError, SecurityError, TeeDiedError
from ptmo_secure.sealed import newest
from ptmo_secure.sealed import store as store_module
from ptmo_secure.sealed.chunks import SealedFile, SealedKind, seal
from ptmo_secure.sealed.store import SealedStore

CHECKOUT = Path(__file__).resolve().parents[2]
IN_USE = "device: in use by another program or engine"


@pytest.fixture
def quick(monkeypatch):
    """A folder in use is not waited for."""
    monkeypatch.setattr(store_module, "_LOCK_SECONDS", 0)


@pytest.fixture
def device(base):
    return base / "device"


@pytest.fixture
def store(device):
    with SealedStore.open(device) as opened:
        yield opened


def put(store, path, data):
    seal(store, SealedKind.MODEL, [io.BytesIO(data)], len(data), path)


def content(store, path):
    with SealedFile(path, store) as file:
        return b"".join(file.chunks())


# ------------------------------------------------------------------------ one path, two versions


@pytest.mark.parametrize("moment", ["announced", "in place"])
def test_of_two_versions_put_in_one_place_at_once_the_one_that_is_there_opens(
    store, base, monkeypatch, moment
):
    path, second = base / "file.sealed", []
    put(store, path, b"before")
    rival = threading.Thread(target=lambda: put(store, path, b"second"))
    name = "_announce" if moment == "announced" else "settle"
    real = getattr(newest.NewestVersions, name)

    def overtaken(self, *args):
        if name == "_announce":
            real(self, *args)
        if not second:
            second.append(rival)
            rival.start()
            rival.join(0.3)  # where it can be done now, it is
        if name == "settle":
            real(self, *args)

    monkeypatch.setattr(newest.NewestVersions, name, overtaken)
    put(store, path, b"first")
    rival.join(30)
    assert not rival.is_alive() and content(store, path) == b"second"


def test_what_many_threads_put_in_one_place_opens_at_every_moment(store, base):
    path, failures = base / "file.sealed", []
    put(store, path, b"0")

    def work(number):
        try:
            for _ in range(4):
                put(store, path, number * 300)
                assert set(content(store, path)) <= set(b"0123")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(b"%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [] and len(content(store, path)) == 300


def test_a_version_that_is_replaced_while_it_is_read_is_read_to_its_end(store, base):
    path, old = base / "file.sealed", os.urandom((1 << 20) + 7)
    put(store, path, old)
    with SealedFile(path, store) as file:
        pieces = file.chunks()
        given = next(pieces)
        put(store, path, b"new")
        assert given + b"".join(pieces) == old
    assert content(store, path) == b"new"  # what was read last did not become the newest


# --------------------------------------------------------------------------- one folder, one user


def test_a_host_whose_tee_died_keeps_its_folder_until_it_lets_go(store, device, quick):
    store.put("mine", b"first")
    os.kill(store.tee.pid, signal.SIGKILL)
    store.tee._channel.process.wait(10)
    with pytest.raises(EngineError, match=IN_USE) as refused:
        SealedStore.open(device)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(f"{device}: ")
    with pytest.raises(TeeDiedError):
        store.put("mine", b"second")
    store.close()
    with SealedStore.open(device) as successor:
        assert successor.get("mine") == b"first"


def test_a_host_that_dies_between_commit_and_record_writes_over_nobody(
    store, device, quick, monkeypatch
):
    """The record of a TEE that is gone is stored while nobody else can have the folder."""
    tried = []
    real = SealedStore._write

    def overtaken(self, path, data):
        if path.name == "counter":
            monkeypatch.setattr(SealedStore, "_write", real)
            os.kill(store.tee.pid, signal.SIGKILL)
            store.tee._channel.process.wait(10)
            with pytest.raises(EngineError, match=IN_USE):
                SealedStore.open(device)
            tried.append(path)
        real(self, path, data)

    monkeypatch.setattr(SealedStore, "_write", overtaken)
    store.put("mine", b"first")
    store.close()
    with SealedStore.open(device) as successor:
        assert successor.get("mine") == b"first" and len(tried) == 1


def test_a_store_that_is_forgotten_or_fails_to_open_lets_go_of_its_folder(device, quick):
    forgotten = SealedStore.open(device)
    forgotten.put("mine", b"first")
    del forgotten
    gc.collect()
    with SealedStore.open(device):
        pass
    record = (device / "counter").read_bytes()
    (device / "counter").write_bytes(b"no record")
    for _ in range(2):
        with pytest.raises(SecurityError, match="BAD_FORMAT"):
            SealedStore.open(device)
    (device / "counter").write_bytes(record)
    with SealedStore.open(device) as again:
        assert again.get("mine") == b"first"


HOLDER = """
import sys, time
from ptmo_secure.sealed.store import SealedStore
store = SealedStore.open(sys.argv[1])
store.put("mine", b"first")
print("open", flush=True)
time.sleep(60)
"""


def test_a_host_that_was_killed_has_let_go_of_its_folder(device):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(device)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as holder:
        assert holder.stdout.readline() == b"open\n"
        holder.kill()
    with SealedStore.open(device) as store:
        assert store.get("mine") == b"first"


# ---------------------------------------------------------------------------------- forked children

FORKED = """
import io, os, signal, sys, threading, time
from pathlib import Path
from ptmo_secure.errors import EngineError
from ptmo_secure.sealed import store as store_module
from ptmo_secure.sealed.chunks import SealedFile, SealedKind, seal
from ptmo_secure.sealed.newest import NewestVersions
from ptmo_secure.sealed.store import SealedStore

store_module._LOCK_SECONDS = 0
folder = Path(sys.argv[1])
path = folder / "a.sealed"
store = SealedStore.open(folder / "device")
store.put("mine", b"first")
seal(store, SealedKind.MODEL, [io.BytesIO(b"x")], 1, path)
newest = NewestVersions(store)
calls = {
    "put": lambda: store.put("mine", b"second"),
    "get": lambda: store.get("mine"),
    "remove": lambda: store.remove("mine"),
    "state": store.state,
    "file_key": lambda: store.file_key(0, 0, 0, bytes(16)),
    "seal": lambda: seal(store, SealedKind.MODEL, [io.BytesIO(b"x")], 1, path),
    "open": lambda: SealedFile(path, store),
    "knows": lambda: newest.knows(path),
    "settle": lambda: newest.settle(path, b""),
    "check": lambda: newest.check(path, b"", lambda: True),
    "another": lambda: SealedStore.open(folder / "device"),
}
held, done = threading.Event(), threading.Event()

def hold():
    with store.lock, store.tee._channel.lock:
        held.set()
        done.wait()

holder = threading.Thread(target=hold)
holder.start()
held.wait()
told, tell = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(30)
    for name, call in calls.items():
        try:
            print(name, "ran", call(), flush=True)
        except EngineError as error:
            print(f"{name}: {error}", flush=True)
    store.close()
    print("closed", flush=True)
    os.close(tell)
    os.read(told, 1)  # lives until its parent has let go
    os._exit(0)
done.set()
holder.join()
while "closed" not in Path(sys.argv[2]).read_text():
    time.sleep(0.01)
print("parent", store.get("mine"), flush=True)
store.close()
with SealedStore.open(folder / "device") as again:
    print("again", again.get("mine"), flush=True)
os.close(tell)
os.waitpid(child, 0)
"""


def test_a_forked_child_is_refused_in_one_line_and_keeps_nothing_of_the_folder(base):
    """Another thread held every lock at the fork: in the child they stay held for good."""
    with (base / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", FORKED, str(base), str(base / "out")],
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            timeout=120,
        )
    lines = (base / "out").read_text().splitlines()
    assert done.stderr == b"" and lines[-3:] == ["closed", "parent b'first'", "again b'first'"]
    assert len(lines) == 14
    for line in lines[:10]:
        assert "a forked process cannot use its parent's" in line
    assert lines[10] == f"another: {base / IN_USE}: a device serves one at a time"
