"""Eight threads on one device whose TEE is killed again and again: nothing sealed is lost.

Each thread works on objects of its own, in client sessions with a seal key each. What `put`
returned for is there after any number of kills; what was under way is the old version or the new.
"""

import random
import tempfile
import threading
from pathlib import Path

import pytest
from fault_points import arm, instrumented
from tee_helpers import Arena
from test_tee_concurrency import run_threads

from ptmo_secure.errors import TeeDiedError
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import ResultCode, TeeDeadError, TeeError
from tee_sim.protocol import NO_VALUES, TA_STORE, Kind, StoreCommand
from tee_sim.sealed_format import RECORD_HEADER
from tests.sealed_files import REMOVED, memory_folder, value_of

THREADS = 8
SLOT_BYTES = 16
REQUESTS = 60  # a TEE answers at most so many before it meets its fault


class Device:
    """The state folder, the TEE that runs on it now, and what must be true of both.

    Attributes:
        allowed: of each object, the values it may have; None stands for no object.
        kills: TEEs that died.
    """

    def __init__(self, folder, seed):
        self.folder = folder
        self.allowed = {}
        self.kills = self.counter = self.epoch = self.last_session = 0
        self.store, self.failed = None, False
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._arena = Arena(SLOT_BYTES * THREADS)
        self.restart(None)

    def restart(self, dead):
        """Open the device anew, once for all threads that find `dead` dead, and check it."""
        with self._lock:
            if self.store is not dead:
                return
            if dead is not None:
                dead.close()
                self.kills += 1
            self.store = SealedStore.open(self.folder)
            tee = self.store.tee
            self._check_that_nothing_was_replayed(tee)
            self._check_objects()
            self.arena_id = tee.register_fd(self._arena.fd, self._arena.size)
            _, epoch = tee.new_epoch(self.arena_id, 0)
            assert epoch > self.epoch, "an epoch number came twice"
            self.epoch = epoch
            if self._rng.random() < 0.75:
                point = self._rng.choice(("after_recv", "before_reply", "kill"))
                skip, line = self._rng.randrange(REQUESTS), self._rng.randrange(1, 60)
                arm(tee, point, Kind.INVOKE, -1, line, skip)
            else:
                delay = self._rng.random() * 0.05
                threading.Timer(delay, tee._channel.process.kill).start()

    def close(self):
        self.store.close()
        self._arena.close()

    def _check_that_nothing_was_replayed(self, tee):
        """Opening asks for the counter and for what may be one ahead: nothing from before."""
        tail = tee.audit_tail(1024)
        commands = [r.command for r in tail.records if r.kind == Kind.INVOKE]
        calls = sum(r.calls for r in tail.records if r.kind == Kind.INVOKE)
        assert commands[0] == StoreCommand.START and commands[-1] == StoreCommand.COUNTER
        assert set(commands[1:-1]) <= {StoreCommand.UNSEAL} and calls <= 3
        for old in (1, self.last_session):
            with pytest.raises(TeeError) as refused:
                tee.drop_epoch(old)
            assert refused.value.code == ResultCode.ITEM_NOT_FOUND

    def _check_objects(self):
        for name, allowed in list(self.allowed.items()):
            value = read(self.store, name)
            assert value in allowed, name
            allowed.intersection_update({value})
        header = RECORD_HEADER.unpack_from((self.folder / "counter").read_bytes())
        assert header[5] >= self.counter, "the counter went back"
        self.counter = header[5]


def read(store, name):
    """What is stored; None for nothing, and where a removal was interrupted."""
    value = value_of(store, name)
    return None if value == REMOVED else value


def use(device, store, thread, rng):
    """One session: opened, with a seal key, a few changes of sealed objects, closed."""
    channel = store.tee._channel
    number = channel.open_session(TA_STORE)
    handle, _ = store.tee.new_epoch(device.arena_id, SLOT_BYTES * thread)
    device.last_session = handle
    for _ in range(rng.randrange(1, 4)):
        name = f"thread-{thread}-{rng.randrange(3)}"
        allowed = device.allowed.setdefault(name, {None})
        if rng.random() < 0.15 and allowed != {None}:
            allowed.add(None)
            store.remove(name)
            allowed.intersection_update({None})
        else:
            data = rng.randbytes(rng.randrange(3000))
            allowed.add(data)
            store.put(name, data)
            allowed.intersection_update({data})
        assert read(store, name) in allowed
    store.tee.drop_epoch(handle)
    channel.call(Kind.CLOSE_SESSION, "close", session=number, values=NO_VALUES)


def use_or_restart(device, store, thread, rng):
    try:
        use(device, store, thread, rng)
    except (TeeDiedError, TeeDeadError):
        device.restart(store)


@pytest.mark.parametrize(
    "sessions,kills",
    [(60, 12), pytest.param(1000, 200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_whatever_kills_a_tee_under_eight_threads_nothing_sealed_is_lost(
    tmp_path, monkeypatch, sessions, kills
):
    with tempfile.TemporaryDirectory(dir=memory_folder(tmp_path)) as base:
        with instrumented(monkeypatch):
            device = Device(Path(base) / "state", seed=sessions)
            done = [0] * THREADS

            def work(thread):
                rng = random.Random(thread)
                while not device.failed and (sum(done) < sessions or device.kills < kills):
                    store = device.store
                    try:
                        use_or_restart(device, store, thread, rng)
                    except BaseException:
                        device.failed = True  # so that no thread waits for kills in vain
                        raise
                    done[thread] += 1

            run_threads(THREADS, work, seconds=3000)  # pytest's own limit comes first
            device.close()
        assert sum(done) >= sessions and device.kills >= kills
        with SealedStore.open(device.folder) as store:  # as a product starts it
            assert store.tee.status()["debug"] is False
            assert {name: {read(store, name)} for name in device.allowed} == device.allowed
            assert sum(value != {None} for value in device.allowed.values()) > THREADS


def test_no_epoch_and_no_key_of_before_a_kill_comes_again(tmp_path):
    """The device, its root key and its counter are the same; what a session gets never is."""
    arena, seen = Arena(), []
    for _ in range(4):
        with SealedStore.open(tmp_path / "state") as store:
            arena_id = store.tee.register_fd(arena.fd, arena.size)
            for _ in range(3):
                handle, epoch = store.tee.new_epoch(arena_id, 0)
                seen.append((epoch, arena.map[:16], handle))
            store.tee._channel.process.kill()
            store.tee._channel.process.wait(5)
            with pytest.raises(TeeDeadError):
                store.tee.new_epoch(arena_id, 0)
    epochs, given, handles = zip(*seen, strict=True)
    assert list(epochs) == sorted(set(epochs)) and len(set(given)) == 12
    assert handles == (1, 2, 3) * 4  # so the keys differ by more than the session's number
    arena.close()
