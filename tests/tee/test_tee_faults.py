"""Every fault point at every command: the documented result, and nothing corrupted afterwards."""

import ast
import re
import tempfile
from pathlib import Path

import pytest
from fault_points import (
    FATAL,
    POINTS,
    STORE_POINTS,
    TEE_POINTS,
    arm,
    instrumented,
    outcome,
)
from fault_world import KIND_RECIPES, RECIPES, REPEATABLE, World, commands

from tee_sim import daemon, spawn
from tee_sim.client import ResultCode, TeeClient
from tee_sim.dispatch import Dispatcher
from tee_sim.protocol import APPLICATIONS, NO_VALUES, Kind, decode, encode
from tests.sealed_files import memory_folder

CHECKOUT = Path(__file__).resolve().parents[2]
COMMANDS = commands()
# Where a point of the supplicant is reached, and what it comes to there; elsewhere: SUCCESS.
REACHED = {
    "after_blob_write": dict.fromkeys(("store.SEAL", "store.COMMIT"), "INTERRUPTED"),
    "before_counter_write": dict.fromkeys(
        ("store.START", "store.SEAL", "store.COMMIT", "store.FORGET", "store.COUNTER"),
        "INTERRUPTED",
    ),
    "short_read": dict.fromkeys(("store.START", "store.UNSEAL"), "TRUNCATED"),
    "bit_flip": dict.fromkeys(("store.START", "store.UNSEAL"), "MAC_INVALID"),
}
AT_LINE = {"kill": 5, "panic": 3, "oom": 2}


def expected(point, name):
    """What a call comes to, as docs/tee.md says in its table of fault points."""
    if point in FATAL:
        return "TARGET_DEAD"
    if point in REACHED:
        return REACHED[point].get(name, "SUCCESS")
    return {"oom": "OUT_OF_MEMORY", "clock_back": "SUCCESS"}[point]


def objects_after(point, name):
    """What a change of the store that met a fault leaves: (of "kept", of "gone")."""
    done = expected(point, name) == "SUCCESS"
    if name == "store.SEAL":
        return (b"old" if point in (*FATAL, "oom") else b"new"), b"gone"
    if name == "store.COMMIT":
        return b"new", b"gone"
    if name == "store.FORGET":
        return b"old", None if done or point in STORE_POINTS else "removed"
    return b"old", b"gone"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A device whose TEEs have fault points."""
    with tempfile.TemporaryDirectory(dir=memory_folder(tmp_path)) as base:
        with instrumented(monkeypatch):
            made = World(Path(base) / "state")
            yield made
        made.start()  # as a product does: what the walk left is good there, too
        assert made.tee.status()["debug"] is False
        made.close()


def test_every_command_of_every_application_is_walked():
    assert set(RECIPES) == set(COMMANDS)
    assert set(KIND_RECIPES) == set(Kind) - {Kind.INVOKE}
    served = set()
    for role in ("core", "guard"):
        dispatcher = Dispatcher(daemon._loader(role, "")[0])
        dispatcher.handle(encode(Kind.INITIALIZE, 0, 0, 0, 0, 1, NO_VALUES))
        for uuid, application in dispatcher._applications.items():
            served |= {(APPLICATIONS[uuid], command) for command in application.commands}
    assert served == {(name.partition(".")[0], command) for name, command in COMMANDS.items()}


def run_armed(world, point, name):
    """Make the call with the fault armed; return (what it came to, its result)."""
    application = name.partition(".")[0]

    def set_fault(store):
        world.tee = store.tee
        if point in STORE_POINTS:
            store.point = point
        else:
            client = store.tee if application != "guard" else world.client(application)
            arm(client, point, Kind.INVOKE, COMMANDS[name], AT_LINE.get(point, 1))

    if name == "store.START":
        return outcome(world.start, set_fault)
    set_fault(world.store)
    met = outcome(RECIPES[name], world)
    world.store.point = ""
    return met


@pytest.mark.parametrize("point", POINTS)
def test_a_fault_at_every_command_has_its_documented_result(world, point):
    """The TEE that one fault ended is followed by the one that meets the next."""
    for name in RECIPES:
        if world.store is None or name == "store.START":
            world.start()
        world.prepare()
        used = world.tee.status()["used_bytes"]
        reference = RECIPES[name](world) if name in REPEATABLE else None
        code, result = run_armed(world, point, name)
        client = world.client(name.partition(".")[0])
        assert code == expected(point, name), name
        kept, gone = objects_after(point, name)
        world.allowed["kept"], world.allowed["gone"] = {kept}, {gone}
        if code == "TARGET_DEAD":
            assert not client.alive() and outcome(client.status)[0] == "TARGET_DEAD", name
            assert name == "store.START" or outcome(RECIPES[name], world)[0] == code
            assert client._channel.process.returncode == (-9 if point == "panic" else 137)
            world.allowed["kept"], world.allowed["gone"] = {kept}, {gone}
            world.close()
            continue
        if world.store is None:  # it was not opened
            continue
        if code == "SUCCESS" and name in REPEATABLE:
            assert result == reference, name
        if code == "OUT_OF_MEMORY":
            assert world.tee.status()["used_bytes"] == used, name
        world.check_objects()
        if code != "SUCCESS":  # the same session goes on
            world.prepare()
            assert outcome(RECIPES[name], world) == ("SUCCESS", reference), name
    if world.store is not None:
        times = [record.at_ms for record in world.tee.audit_tail(1024).records]
        assert times == sorted(times) and len(times) > 20


@pytest.mark.parametrize("point", ["after_recv", "before_reply"])
def test_a_tee_that_ends_at_a_request_of_any_kind_is_a_dead_one(world, monkeypatch, point):
    for kind, recipe in KIND_RECIPES.items():
        if kind is Kind.INITIALIZE:
            with instrumented(monkeypatch, f"{point} {int(kind)} 0 1 0"):
                with pytest.raises(Exception, match="the TEE did not start: no message"):
                    world.start()
            continue
        world.start()
        arm(world.tee, point, kind)
        assert outcome(recipe, world)[0] == "TARGET_DEAD", kind
        assert not world.tee.alive()


def test_the_documents_table_of_fault_points_is_the_tested_one():
    section = (CHECKOUT / "docs" / "tee.md").read_text().split("\n## Faults\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| .*?\| (.*?) \|", section, re.MULTILINE))
    assert set(rows) == set(POINTS)
    for point, said in rows.items():
        results = {expected(point, name) for name in RECIPES}
        told = re.findall(r"[A-Z][A-Z_]{4,}", said.partition(";")[0])
        assert set(told) == (results - {"SUCCESS"} or results), point
        where = re.search(rf"^\| `{point}` \| (.*?) \|", section, re.MULTILINE)[1]
        reached = {name.partition(".")[2] for name in REACHED.get(point, ())}
        assert reached == set(re.findall(r"[A-Z]{4,}", where)), point


# ------------------------------------------------------------------- in test builds only


def test_a_tee_with_fault_points_says_that_it_is_a_debug_one(world):
    world.start()
    assert world.tee.status()["debug"] is True
    assert world.client("guard").status()["debug"] is True


@pytest.mark.parametrize("role", ["core", "guard"])
def test_a_launched_tee_has_no_fault_points_and_none_can_be_armed(role):
    with TeeClient.launch(role) as tee:
        for point in TEE_POINTS:
            arm(tee, point, Kind.STATUS)
            refusal = decode(tee._channel._socket.recv(4096))  # as of any packet that is no frame
            assert refusal.command == ResultCode.BAD_FORMAT
            assert tee.status()["debug"] is False


def test_no_code_of_the_product_passes_instruments():
    """`daemon.main` alone takes them, and what starts a TEE calls it with six arguments."""
    called = [call for call in ast.walk(ast.parse(spawn._BOOTSTRAP)) if isinstance(call, ast.Call)]
    main = [call for call in called if getattr(call.func, "id", "") == "main"]
    assert [(len(call.args), call.keywords) for call in main] == [(6, [])]
    naming = {
        str(path.relative_to(CHECKOUT))
        for folder in ("tee_sim", "ptmo_secure")
        for path in (CHECKOUT / folder).rglob("*.py")
        if "instruments" in path.read_text().lower()
    }
    assert naming == {"tee_sim/daemon.py"}


def test_more_arguments_and_variables_arm_nothing(monkeypatch):
    monkeypatch.setenv("PTMO_FAULTS", "after_recv 7 0 1 0")
    monkeypatch.setenv("PYTHONSTARTUP", "faulty_tee.py")
    real = spawn._search_path
    more = [str(Path(__file__).parent), "instruments", "after_recv 7 0 1 0"]
    monkeypatch.setattr(spawn, "_search_path", lambda role: [*real(role), *more])
    with TeeClient.launch() as tee:
        assert tee.status()["debug"] is False
