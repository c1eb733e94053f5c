"""The 32 MiB of the applications, and memory that runs out anywhere: the session goes on."""

import tempfile
from pathlib import Path

import pytest
from fault_points import outcome
from fault_world import RECIPES, REPEATABLE, World, commands
from local_tee import RunningOut, launch_local
from tee_helpers import ROOT_KEY, SMALL, Arena

from tee_sim.client import KvLayout, TeeClient
from tee_sim.memory import BUDGET_BYTES
from tee_sim.protocol import GuardCommand, memref
from tee_sim.scan_calls import _SCAN
from tests.sealed_files import memory_folder

COMMANDS = commands()
A, B = bytes([65]) * 32, bytes([66]) * 32
ROW_BYTES, PLAIN = 64, bytes(1000)
Q_ROWS = bytes(SMALL.n_heads * SMALL.head_dim * ROW_BYTES)
LARGE, LITTLE = KvLayout(64, 64, 8, 128, 128, 32), KvLayout(1, 1, 1, 8, 8, 4)


# --------------------------------------------------------------------- the budget, filled


@pytest.fixture
def full():
    """A TEE whose budget has less than a session's record left: (client, store, what is there)."""
    arena = Arena()
    with TeeClient.launch(debug_root_key=ROOT_KEY) as tee:
        held = {"arena": tee.register_fd(arena.fd, arena.size), "model": tee.open_model(SMALL)}
        held["shared"] = tee.register_memory(1 << 16)
        held["moving"] = tee.open_model(SMALL)
        tee.rotate_model(held["moving"])
        store = tee.open_store()
        yield tee, store, held
    arena.close()


def fill(tee, held):
    """Hold what there is room for: large models, little ones, sessions."""
    takers = (
        lambda: tee.open_model(LARGE),
        lambda: tee.open_model(LITTLE),
        lambda: tee.new_epoch(held["arena"], 0),
    )
    held["large"] = takers[0]()
    for take in takers:
        while outcome(take)[0] == "SUCCESS":
            pass
    used = tee.status()["used_bytes"]
    assert BUDGET_BYTES - 256 < used <= BUDGET_BYTES
    return used


def charging(tee, store, held):
    """What takes memory for itself or for its work, one call of each command."""
    reorder = (held["model"], 0, "k", held["shared"], 0, ROW_BYTES)
    move = (held["moving"], *reorder[1:])
    return {
        "kv.OPEN_MODEL": lambda: tee.open_model(LITTLE),
        "kv.PERMUTE_WEIGHTS": lambda: tee.permute_weights(held["model"], 0, "q", Q_ROWS, ROW_BYTES),
        "kv.UNPERMUTE": lambda: tee.unpermute(held["model"], 0, held["shared"], 8),
        "kv.NEW_EPOCH": lambda: tee.new_epoch(held["arena"], 0),
        "kv.UNPERMUTE_ROWS": lambda: tee.reorder_rows(*reorder, to="model"),
        "kv.MOVE_ROWS": lambda: tee.reorder_rows(*move, to="epoch"),
        "admin.ROTATE": lambda: tee.rotate_model(held["model"]),
        "store.SEAL": lambda: store.seal(B, PLAIN),
        "store.UNSEAL": lambda: store.unseal(A, held["sealed"]),
    }


def free_of_charge(tee, store, held):
    """What works in a full budget: it takes a few bytes of its own, or gives some back."""
    return {
        "kv.STORAGE_KEY": lambda: tee.storage_key(held["arena"], 64, bytes(32), bytes(16)),
        "store.COUNTER": store.counter,
        "store.FILE_KEY": lambda: store.file_key(held["arena"], 64, bytes(16)),
        "admin.STATS": tee.stats,
        "attest.GET_EVIDENCE": lambda: tee.evidence(bytes(32)),
        "admin.AUDIT_TAIL": lambda: tee.audit_tail(1024),
        "store.FORGET": lambda: store.forget(A),
        "kv.DROP_EPOCH": lambda: tee.drop_epoch(1),
        "kv.CLOSE_MODEL": lambda: tee.close_model(held["large"]),
    }


OF_THE_GUARD = {f"guard.{command.name}" for command in GuardCommand}
TESTED_BELOW = {"store.START", "store.COMMIT", *OF_THE_GUARD}


def test_every_command_is_refused_in_a_full_budget_or_needs_none(full):
    tee, store, held = full
    store.start(b"")
    held["sealed"] = store.seal(A, PLAIN)
    store.commit(A)
    refused, allowed = charging(*full), free_of_charge(*full)
    assert {*refused, *allowed, *TESTED_BELOW} == set(COMMANDS)
    used = fill(tee, held)
    for name, call in refused.items():
        assert outcome(call)[0] == "OUT_OF_MEMORY", name
        assert tee.status()["used_bytes"] == used, name
    for name, call in allowed.items():
        if name != "store.FORGET":
            assert outcome(call)[0] == "SUCCESS", name
    assert tee.status()["used_bytes"] < used
    for name, call in refused.items():  # there is room again, and the sessions are the same
        assert outcome(call)[0] == "SUCCESS", name
    assert outcome(allowed["store.FORGET"])[0] == "SUCCESS"


def test_an_object_that_does_not_fit_is_committed_when_there_is_room(full):
    tee, store, held = full
    store.start(b"")
    sealed = store.seal(A, PLAIN)
    used = fill(tee, held)
    assert outcome(store.commit, A)[0] == "OUT_OF_MEMORY"
    assert tee.status()["used_bytes"] == used
    tee.close_model(held["large"])
    store.commit(A)
    assert store.unseal(A, sealed) == PLAIN


def test_a_record_that_does_not_fit_starts_the_counter_when_there_is_room(full):
    with TeeClient.launch(debug_root_key=ROOT_KEY) as before:
        earlier = before.open_store()
        earlier.start(b"")
        sealed = earlier.seal(A, PLAIN)
        record = earlier.commit(A)
    tee, store, held = full
    used = fill(tee, held)
    assert outcome(store.start, record)[0] == "OUT_OF_MEMORY"
    assert tee.status()["used_bytes"] == used
    assert outcome(store.counter)[0] == "BAD_STATE"
    tee.close_model(held["large"])
    store.start(record)
    assert store.unseal(A, sealed) == PLAIN


def test_a_text_that_is_too_long_leaves_the_guard_as_it_was():
    with TeeClient.launch("guard") as guard:
        shared = guard.register_memory(2 << 20)
        values = (*memref(shared.id, 0, (1 << 18) + 1), *memref(shared.id, 0, 0), 0, 0, 0, 0)
        refused = outcome(guard._invoke, GuardCommand.SCAN, _SCAN, values)
        assert refused[0] == "OUT_OF_MEMORY"
        assert guard.status()["used_bytes"] == 0
        assert guard.scan("a" * (1 << 18)).level == "PUBLIC"


# ------------------------------------------------------------- memory that runs out anywhere


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A device whose TEE is an object of this process."""
    monkeypatch.setattr(TeeClient, "launch", classmethod(launch_local))
    with tempfile.TemporaryDirectory(dir=memory_folder(tmp_path)) as base:
        made = World(Path(base) / "state")
        made.start()
        yield made
        made.close()


ALLOWED_AFTER = {  # (of "kept", of "gone")
    "store.COMMIT": ({b"new"}, {b"gone"}),
    "store.FORGET": ({b"old"}, {"removed", None}),
}
TIERS = [pytest.param(17, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", TIERS)
@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"store.START"}))
def test_wherever_memory_runs_out_the_session_goes_on_and_the_budget_is_the_same(world, name, step):
    """At each of a command's first 40 calls, and at every `step`-th of those that follow."""
    application, n, ended = name.partition(".")[0], 1, False
    while not ended:
        world.tee.close_model(world.model)
        world.model = world.tee.open_model(SMALL)  # whose permutations are not derived yet
        world.prepare()
        client = world.client(application)
        used = client.status()["used_bytes"]
        fault = RunningOut(client, application, COMMANDS[name], n)
        code, _ = outcome(RECIPES[name], world)
        fault.stop()
        ended = fault.calls < n
        assert code == ("SUCCESS" if ended else "OUT_OF_MEMORY"), n
        if not ended:
            given_back = 512 if name == "store.FORGET" else 0  # it may have had its effect
            assert client.status()["used_bytes"] in (used, used - given_back), n
            kept, gone = ALLOWED_AFTER.get(name, ({b"old"}, {b"gone"}))
            world.allowed["kept"], world.allowed["gone"] = set(kept), set(gone)
            world.check_objects()
            world.prepare()
            code, result = outcome(RECIPES[name], world)
            assert code == "SUCCESS", n
            assert name not in REPEATABLE or RECIPES[name](world) == result
        n += 1 if n < 40 else step
    assert n > 2


def test_wherever_memory_runs_out_in_start_the_counter_is_whole_or_not_started():
    earlier = launch_local(TeeClient).open_store()
    earlier.start(b"")
    sealed = {}
    for object_id in (A, B):
        sealed[object_id] = earlier.seal(object_id, PLAIN)
        record = earlier.commit(object_id)
    seen, n, ended = set(), 0, False
    while not ended:
        n += 1
        tee = launch_local(TeeClient)
        store = tee.open_store()
        fault = RunningOut(tee, "store", COMMANDS["store.START"], n)
        code, _ = outcome(store.start, record)
        ended = fault.calls < n
        assert code == ("SUCCESS" if ended else "OUT_OF_MEMORY"), n
        fault.stop()
        if not ended:
            assert tee.status()["used_bytes"] in (0, 1024), n
            code, _ = outcome(store.start, record)
            seen.add(code)
            assert len(store.counter()) == len(record), n
        assert tee.status()["used_bytes"] == 1024, n
        for object_id, data in sealed.items():
            assert store.unseal(object_id, data) == PLAIN
    assert seen == {"SUCCESS", "BAD_STATE"}  # before the counter was taken, and after
