"""Whatever interrupts a change of the store, an object is the old one or the new one afterwards."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptmo_secure.errors import EngineError
from ptmo_secure.sealed import files
from ptmo_secure.sealed.store import SealedStore
from tests.sealed.power_loss import lay_out, states_after
from tests.sealed_files import value_of

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT_KEY = bytes(range(32))
SLOW = pytest.mark.slow
STEPS = ("tempfile.mkstemp", "os.fdopen", "os.fsync", "os.replace", "os.unlink", "os.open")


def opened(folder):
    return SealedStore.open(folder, debug_root_key=ROOT_KEY)


@pytest.fixture
def folder(base):
    """A device's state with two objects."""
    with opened(base / "state") as store:
        store.put("changed", b"old")
        store.put("other", b"untouched")
    return base / "state"


CHANGES = {
    "replaced": (lambda store: store.put("changed", b"new " * 50), {b"old", b"new " * 50}),
    "added": (lambda store: store.put("added", b"new"), {None, b"new"}),
    "removed": (lambda store: store.remove("changed"), {b"old", "removed", None}),
    "start": (lambda store: None, {b"old"}),
}
TARGET = {"replaced": "changed", "added": "added", "removed": "changed", "start": "changed"}


def check_consistent(folder, change):
    """Restart on `folder`, and again; return what became of the changed object."""
    _, allowed = CHANGES[change]
    with opened(folder) as store:
        store.put("more", b"more")  # before the changed object is looked at
        value = value_of(store, TARGET[change])
        assert value in allowed
        assert store.get("other") == b"untouched"
        assert not list(folder.rglob("*.part"))
    with opened(folder) as store:
        assert value_of(store, TARGET[change]) == value  # what was read once stays
        store.put(TARGET[change], b"newer")
        assert store.get("other") == b"untouched"
    with opened(folder) as store:
        assert store.get(TARGET[change]) == b"newer" and store.get("more") == b"more"
    return value


@pytest.mark.parametrize("change", CHANGES)
def test_a_power_failure_at_any_step_leaves_the_old_object_or_the_new_one(
    folder, monkeypatch, change
):
    work, allowed = CHANGES[change]

    def start_and_change():
        with opened(folder) as store:
            work(store)

    states = states_after(monkeypatch, folder, start_and_change)
    assert len(states) >= {"start": 5, "removed": 10}.get(change, 13)
    finals = []
    for number, state in enumerate(states):
        finals.append(check_consistent(lay_out(state, folder.parent / str(number)), change))
    assert set(finals) == allowed  # the states do differ
    assert finals[-1] == value_after(change)


def value_after(change):
    return {"replaced": b"new " * 50, "added": b"new", "removed": None, "start": b"old"}[change]


def at_call(monkeypatch, number, act):
    """Have `act` run instead of the call with this number, over all steps of `files`."""
    counted = [0]

    class Interrupting:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, attribute):
            real = getattr(sys.modules[self.name], attribute)
            if f"{self.name}.{attribute}" not in STEPS:
                return real

            def call(*args, **given):
                counted[0] += 1
                if counted[0] == number:
                    act()
                return real(*args, **given)

            return call

    for name in ("os", "tempfile"):
        monkeypatch.setattr(files, name, Interrupting(name))
    return counted


class Interruption(BaseException):
    """Something no code of the store expects, as Ctrl-C is."""


def fail(kind):
    def act():
        raise OSError(28, "No space left on device") if kind == "disk full" else Interruption

    return act


@pytest.mark.parametrize(
    "change,kind",
    [
        ("replaced", "disk full"),
        ("added", "interrupted"),
        ("removed", "disk full"),
        pytest.param("replaced", "interrupted", marks=SLOW),
        pytest.param("added", "disk full", marks=SLOW),
        pytest.param("removed", "interrupted", marks=SLOW),
    ],
)
def test_a_failure_at_any_step_leaves_a_store_that_goes_on(folder, monkeypatch, change, kind):
    work, allowed = CHANGES[change]
    seen, number = set(), 0
    while True:
        number += 1
        trial = folder.parent / str(number)
        shutil.copytree(folder, trial)
        with opened(trial) as store:
            with monkeypatch.context() as patched:
                counted = at_call(patched, number, fail(kind))
                try:
                    work(store)
                except (EngineError, Interruption):
                    pass
            store.put("more", b"more")
            value = value_of(store, TARGET[change])
            assert value in allowed and store.get("other") == b"untouched"
            seen.add(value)
        assert check_consistent(trial, change) == value
        if counted[0] < number:
            break
    assert number > 5 and seen >= allowed - {"removed"}


KILLED = """
import os, signal, sys
from ptmo_secure.sealed.store import SealedStore
from tests.sealed import test_sealed_crashes as crashes
import pytest
folder, change, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = crashes.opened(folder)
with pytest.MonkeyPatch.context() as patched:
    counted = crashes.at_call(patched, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    crashes.CHANGES[change][0](store)
print("survived", counted[0])
"""


@pytest.mark.parametrize("change", ["replaced", pytest.param("removed", marks=SLOW)])
def test_a_host_killed_at_any_step_leaves_the_old_object_or_the_new_one(folder, change):
    seen, number, survived = set(), 0, False
    while not survived:
        number += 1
        trial = folder.parent / str(number)
        shutil.copytree(folder, trial)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(trial), change, str(number)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        survived = done.returncode == 0
        assert survived or done.returncode == -signal.SIGKILL, done.stderr
        seen.add(check_consistent(trial, change))
    assert number > 5 and len(seen) >= 2


def test_a_tee_killed_in_the_middle_loses_nothing(folder):
    with opened(folder) as store:
        os.kill(store.tee.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="TEE process is gone"):
            store.put("changed", b"new")
        with pytest.raises(EngineError, match="TEE process is gone"):
            store.get("other")
    assert check_consistent(folder, "replaced") == b"old"


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_store_that_was_closed_changes_no_file_of_its_successor(folder, change):
    store = opened(folder)
    store.close()
    with opened(folder) as successor:
        with pytest.raises(EngineError, match="TEE process is gone"):
            CHANGES[change][0](store)
        assert successor.get("changed") == b"old"


def test_a_store_is_closed_when_the_call_under_way_is_over(folder, monkeypatch):
    store, flushing, flushed = opened(folder), threading.Event(), []
    real = files.replacing

    def slowly(path):
        flushing.set()
        time.sleep(0.2)
        flushed.append(path)
        return real(path)

    monkeypatch.setattr(files, "replacing", slowly)
    writing = threading.Thread(target=store.put, args=("changed", b"new"))
    writing.start()
    assert flushing.wait(5)
    store.close()
    assert len(flushed) == 2  # the object and the record
    monkeypatch.undo()
    writing.join(5)
    with opened(folder) as successor:
        assert successor.get("changed") == b"new"


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=SLOW)])
def test_tees_killed_at_random_moments_lose_nothing(base, count):
    """Each round stores until its TEE is killed; what `put` returned for is there afterwards."""
    rng, written = random.Random(5), {}
    folder = base / "state"
    for _ in range(count):
        with SealedStore.open(folder) as store:
            for name, data in written.items():
                assert store.get(name) in data
                written[name] = [store.get(name)]
            killer = threading.Timer(rng.random() * 0.2, os.kill, (store.tee.pid, signal.SIGKILL))
            killer.start()
            try:
                while True:
                    name, data = f"object-{rng.randrange(4)}", rng.randbytes(rng.randrange(5000))
                    if name in written:
                        written[name] = [*written[name], data]
                    store.put(name, data)
                    written[name] = [data]
            except EngineError:
                pass
            killer.join()
    assert written
