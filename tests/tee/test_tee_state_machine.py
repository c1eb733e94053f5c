"""Random sequences of open, invoke, close, kill and restart against a small model of a device."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from fault_points import FATAL, arm, instrumented, outcome
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tee_helpers import SMALL, Arena

from ptmo_secure.errors import InputError
from ptmo_secure.sealed.store import SealedStore
from tee_sim.protocol import (
    APPLICATIONS,
    NO_VALUES,
    TA_ADMIN,
    TA_GUARD,
    TA_KV,
    TA_STORE,
    AdminCommand,
    Kind,
    KvCommand,
    StoreCommand,
)
from tee_sim.sealed_format import RECORD_HEADER
from tee_sim.ta.kv_model import LoadedModel
from tests.sealed_files import memory_folder

NAMES = st.sampled_from(["a", "b"])
DATA = st.binary(max_size=40)
LINES = st.integers(1, 40)  # of a command's handler
PICKS = st.integers(0, 9)  # of sessions, models and keys: see `Devices.number`


class Model:
    """What a device should do: which numbers mean something, what is stored, what it all costs."""

    def __init__(self):
        self.objects = {}  # name: the values it may have; None: no such object
        self.epoch = self.counter = 0
        self.boot()

    def boot(self):
        self.running = True
        self.sessions = {1: "kv", 2: "store"}  # as opened by `TeeClient.launch` and the store
        self.models, self.keys = {}, set()
        self.last_session, self.last_model, self.last_key = 2, 0, 0

    @property
    def used_bytes(self):
        stored = sum(values != {None} for values in self.objects.values())
        models = LoadedModel.budget_bytes(SMALL) * len(self.models)
        return models + 256 * len(self.keys) + 512 * stored

    def answer(self, code):
        return code if self.running else "TARGET_DEAD"

    def known(self, number, table):
        return self.answer("SUCCESS" if number in table else "ITEM_NOT_FOUND")


class Devices(RuleBasedStateMachine):
    """One device in a folder of its own, and the model of it."""

    base = reached = None  # a folder; a count of (rule, what it came to) over the whole run

    @initialize()
    def make(self):
        self.folder = Path(tempfile.mkdtemp(dir=self.base))
        self.model, self.store, self.arena = Model(), None, Arena()
        self.start()
        self.put("a", b"first")

    def start(self):
        self.store = SealedStore.open(self.folder)
        self.tee = self.store.tee
        self.model.boot()
        self.arena_id = self.tee.register_fd(self.arena.fd, self.arena.size)
        self.open_session(TA_KV)
        self.open_model()
        self.new_epoch(0, True)

    def teardown(self):
        if getattr(self, "store", None) is not None:
            self.store.close()
            self.arena.close()
            shutil.rmtree(self.folder)

    def number(self, pick, table):
        """Most often one that means something now; else one that does no more, or does not yet."""
        return sorted(table)[pick % len(table)] if table and pick > 1 else pick + 3

    def note(self, what, code):
        self.reached[what, code] += 1
        return code

    def call(self, kind, **given):
        return outcome(lambda: self.tee._channel.call(kind, "x", **given))

    # ------------------------------------------------------------------ sessions

    @rule(uuid=st.sampled_from([TA_KV, TA_STORE, TA_ADMIN, TA_GUARD, (1, 2)]))
    def open_session(self, uuid):
        model = self.model
        code, number = outcome(self.tee._channel.open_session, uuid)
        served = uuid in (TA_KV, TA_STORE, TA_ADMIN)
        assert code == model.answer("SUCCESS" if served else "ITEM_NOT_FOUND")
        if code == "SUCCESS":
            model.last_session += 1
            assert number == model.last_session
            model.sessions[number] = APPLICATIONS[uuid]

    @rule(pick=PICKS)
    def close_session(self, pick):
        number = self.number(pick, set(self.model.sessions) - {1, 2})
        code = self.note("close session", self.call(Kind.CLOSE_SESSION, session=number)[0])
        assert code == self.model.known(number, self.model.sessions)
        if code == "SUCCESS":
            del self.model.sessions[number]

    @rule(pick=PICKS)
    def invoke(self, pick):
        """STATS, COUNTER or, refused for its handle, CLOSE_MODEL: by the session's application."""
        number = self.number(pick, self.model.sessions)
        application = self.model.sessions.get(number, "kv")
        command, types, expected = {
            "admin": (AdminCommand.STATS, 0x2222, "SUCCESS"),
            "store": (StoreCommand.COUNTER, 0x2E, "ITEM_NOT_FOUND"),  # no such memory
            "kv": (KvCommand.CLOSE_MODEL, 0x1, "ITEM_NOT_FOUND"),
        }[application]
        values = (9 << 32, *NO_VALUES[1:]) if application != "admin" else NO_VALUES
        code, _ = self.call(
            Kind.INVOKE, session=number, command=command, types=types, values=values
        )
        known = number in self.model.sessions
        self.note(f"invoke {application}", code)
        assert code == self.model.answer(expected if known else "ITEM_NOT_FOUND")

    # ------------------------------------------------------------------ models and seal keys

    @rule()
    def open_model(self):
        model = self.model
        code, handle = outcome(self.tee.open_model, SMALL)
        assert code == model.answer("SUCCESS")
        if code == "SUCCESS":
            model.last_model += 1
            assert handle == model.last_model
            model.models[handle] = self.new_epoch_number(self.tee.model_epoch(handle))

    @rule(pick=PICKS)
    def close_model(self, pick):
        handle = self.number(pick, self.model.models)
        code = self.note("close model", outcome(self.tee.close_model, handle)[0])
        assert code == self.model.known(handle, self.model.models)
        if code == "SUCCESS":
            del self.model.models[handle]

    @rule(pick=PICKS)
    def permute(self, pick):
        """Twice the same under one epoch, and a permutation of what was given."""
        handle = self.number(pick, self.model.models)
        rows = bytes(range(SMALL.n_heads * SMALL.head_dim))
        if handle in self.tee._layouts:
            code, moved = outcome(self.tee.permute_weights, handle, 0, "q", rows, 1)
            assert self.note("permute", code) == self.model.known(handle, self.model.models)
            if code == "SUCCESS":
                assert sorted(moved) == list(rows)
                self.note("moved", moved != rows)  # one key in 576 leaves so few where they were
                assert moved == self.tee.permute_weights(handle, 0, "q", rows, 1)

    @rule(slot=st.integers(0, 3), inside=st.sampled_from([True, True, True, False]))
    def new_epoch(self, slot, inside):
        model = self.model
        offset = 16 * slot if inside else self.arena.size - 15
        code, drawn = outcome(self.tee.new_epoch, self.arena_id, offset)
        assert code == model.answer("SUCCESS" if inside else "BAD_PARAMETERS")
        if model.running:
            model.last_key += 1
        if code == "SUCCESS":
            handle, epoch = drawn
            assert handle == model.last_key
            model.keys.add(handle)
            self.new_epoch_number(epoch)
            assert self.arena.map[offset : offset + 16] != bytes(16)

    @rule(pick=PICKS)
    def drop_epoch(self, pick):
        handle = self.number(pick, self.model.keys)
        code = self.note("drop epoch", outcome(self.tee.drop_epoch, handle)[0])
        assert code == self.model.known(handle, self.model.keys)
        if code == "SUCCESS":
            self.model.keys.remove(handle)

    def new_epoch_number(self, epoch):
        assert epoch > self.model.epoch, "an epoch number came twice"
        self.model.epoch = epoch
        return epoch

    # ------------------------------------------------------------------ sealed objects

    @rule(name=NAMES, data=DATA)
    def put(self, name, data):
        code, _ = outcome(self.store.put, name, data)
        assert code == self.model.answer("SUCCESS")
        if code == "SUCCESS":
            self.model.objects[name] = {data}
            self.model.counter += 1

    @rule(name=NAMES)
    def get(self, name):
        values = self.model.objects.setdefault(name, {None})
        if self.model.running:
            found = self.read(name)
            assert found in values
            self.model.objects[name] = {found}
        else:
            assert outcome(self.store.get, name)[0] == "TARGET_DEAD"

    @rule(name=NAMES)
    def remove(self, name):
        values = self.model.objects.get(name, {None})
        try:
            code, _ = outcome(self.store.remove, name)
        except InputError:
            code = "ITEM_NOT_FOUND"
        assert code == self.model.answer("ITEM_NOT_FOUND" if values == {None} else "SUCCESS")
        if self.note("remove", code) == "SUCCESS":
            self.model.objects[name] = {None}
            self.model.counter += 1

    def read(self, name):
        try:
            return self.store.get(name)
        except InputError:
            return None

    # ------------------------------------------------------------------ kills and restarts

    @precondition(lambda self: self.model.running)
    @rule(wait=st.booleans())
    def kill(self, wait):
        self.tee._channel.process.kill()
        self.tee._channel.process.wait(5)
        self.model.running = False
        if not wait:
            self.restart()

    @precondition(lambda self: self.model.running)
    @rule(
        name=NAMES,
        data=DATA,
        point=st.sampled_from(FATAL),
        line=st.integers(1, 40),
        at=st.booleans(),
        wait=st.booleans(),
    )
    def kill_while_it_stores(self, name, data, point, line, at, wait):
        """The object is the old one after SEAL, and the new one after COMMIT."""
        arm(self.tee, point, Kind.INVOKE, StoreCommand.COMMIT if at else StoreCommand.SEAL, line)
        assert outcome(self.store.put, name, data)[0] == "TARGET_DEAD"
        self.note(f"kill {'COMMIT' if at else 'SEAL'}", point)
        if at:
            self.model.objects[name] = {data}
            self.model.counter += 1
        self.model.running = False
        if not wait:
            self.restart()

    @rule()
    def restart(self):
        """After a kill, or in order."""
        self.store.close()
        self.start()

    @invariant()
    def the_budget_is_what_the_model_says(self):
        if getattr(self, "store", None) is None or not self.model.running:
            return
        assert self.tee.status()["used_bytes"] == self.model.used_bytes
        record = (self.folder / "counter").read_bytes()
        assert RECORD_HEADER.unpack_from(record)[5] == self.model.counter
        assert sorted(self.store.names()) == sorted(
            name for name, values in self.model.objects.items() if values != {None}
        )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_a_device_does_what_the_model_says_whatever_is_asked_and_whenever_it_is_killed(
    tmp_path, monkeypatch, examples
):
    with tempfile.TemporaryDirectory(dir=memory_folder(tmp_path)) as base:
        with instrumented(monkeypatch):
            tested = type("TestedDevices", (Devices,), {"base": base, "reached": Counter()})
            run_state_machine_as_test(
                tested,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    derandomize=True,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    assert tested.reached["moved", True] > tested.reached["moved", False]
    changes = ("close session", "close model", "drop epoch", "remove")
    assert {(rule_name, "SUCCESS") for rule_name in changes} <= set(tested.reached)
    if examples > 100:
        for what in ("kill SEAL", "kill COMMIT"):
            assert {(what, point) for point in FATAL} <= set(tested.reached)
        for code in ("ITEM_NOT_FOUND", "TARGET_DEAD"):
            assert {(rule_name, code) for rule_name in changes} <= set(tested.reached)
