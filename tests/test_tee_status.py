"""`ptmo tee status`: its fields, and how a protection that could not be had shows."""

import json
from pathlib import Path
from types import MappingProxyType

import pytest

from ptmo_secure import _native, cli, tee_report
from ptmo_secure.doctor import run_checks
from ptmo_secure.sealed.paths import default_state_folder
from ptmo_secure.sealed.store import SealedStore
from ptmo_secure.tee_report import LOSSES, TeeReport, look
from tee_sim import spawn
from tee_sim.audit_chain import AuditTail
from tee_sim.protocol import HARDENING_BITS

FIELDS = {
    *("arena", "hardening", "budget_bytes", "used_bytes", "epoch", "counter", "crossings"),
    *("role", "pid", "debug", "regions", "downgrades", "audit", "guard", "device"),
}


@pytest.fixture
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """TEE processes on a system where a process cannot be watched."""
    sabotage = "import os; os.pidfd_open = lambda pid: os.open('/no/such', 0); "
    monkeypatch.setattr(spawn, "_BOOTSTRAP", sabotage + spawn._BOOTSTRAP)


def status(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert cli.main(["tee", "status", *options]) == 0
    return capsys.readouterr().out


def test_the_json_has_the_cores_fields_at_the_top_and_the_guards_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = json.loads(status(capsys, "--json"))
    assert set(value) == FIELDS
    assert (value["role"], value["guard"]["role"]) == ("core", "guard")
    assert value["pid"] != value["guard"]["pid"]
    assert value["debug"] is False and value["counter"] is None
    assert value["budget_bytes"] == 32 << 20
    assert (value["used_bytes"], value["epoch"], value["crossings"]) == (0, 0, 0)
    assert list(value["hardening"]) == list(HARDENING_BITS)
    assert value["arena"] in ("memfd_secret", "mlock")
    assert value["audit"]["records"] > 0 and len(bytes.fromhex(value["audit"]["head"])) == 32


def test_the_table_names_every_field_and_protection(capsys: pytest.CaptureFixture[str]) -> None:
    table = status(capsys)
    for name in ("budget_bytes", "used_bytes", "epoch", "crossings", "arena", "audit records"):
        assert name in table
    for name in HARDENING_BITS:
        assert name in table
    assert str(32 << 20) in table and "Simulated TEE" in table


def test_what_a_machine_does_not_give_is_recorded_and_shown(
    no_watch: None, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(status(capsys, "--json"))
    assert value["hardening"]["parent_watch"] is False
    assert {"core.parent_watch", "guard.parent_watch"} <= set(value["downgrades"])
    assert value["hardening"]["dumpable_off"] is True
    assert "core.dumpable_off" not in value["downgrades"]
    table = " ".join(status(capsys).split())
    assert "no: the TEE can outlive its host" in table
    found = {check.name: check for check in run_checks()}
    for name in ("TEE core", "TEE guard"):
        assert found[name].status == "warn"
        assert found[name].detail.startswith("starts; no parent_watch: the TEE can outlive its")


def report(arena: str | None) -> TeeReport:
    state = MappingProxyType({"hardening": {"no_core_dumps": True, "of_the_future": False}})
    return TeeReport(state, {"hardening": {}}, arena, AuditTail((), 0, bytes(32)))


@pytest.mark.parametrize(
    ("arena", "text"),
    [
        ("memfd_secret", "memfd_secret"),
        ("mlock", "mlock: root can read the engine's keys"),
        (None, "none: no native module, or memory cannot be locked"),
    ],
)
def test_another_arena_than_secret_memory_is_a_downgrade(
    arena: str | None,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = report(arena)
    missing = ("core.of_the_future",)
    assert made.downgrades == (missing if arena == "memfd_secret" else ("arena", *missing))
    assert made.as_json()["arena"] == arena
    monkeypatch.setattr(tee_report, "look", lambda state: made)
    assert text in " ".join(status(capsys).split())


def test_a_machine_without_lockable_memory_has_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise RuntimeError("mlock: cannot allocate")

    monkeypatch.setattr(_native, "SecretArena", refuse)
    assert look().arena is None


def test_a_device_tells_its_counter_starts_and_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "device"
    with SealedStore.open(folder) as store:
        for name in ("a", "b", "a"):
            store.put(name, b"data")
    value = json.loads(status(capsys, "--json", "--state", str(folder)))
    assert value["counter"] == 3 and value["debug"] is False
    assert value["device"] == {"folder": str(folder), "boots": 2, "objects": 2, "problem": None}
    monkeypatch.setenv("PTMO_STATE", str(folder))
    monkeypatch.setenv("COLUMNS", "300")
    table = " ".join(status(capsys).split())
    assert "counter │ 3" in table and "boots │ 3" in table and "sealed objects │ 2" in table
    with SealedStore.open(folder):
        value = json.loads(status(capsys, "--json"))
    assert value["counter"] is None
    assert value["device"]["problem"].count("in use by another program or engine") == 1


def test_a_look_makes_no_device_and_says_that_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "device"
    monkeypatch.setenv("PTMO_STATE", str(folder))
    monkeypatch.setenv("COLUMNS", "300")
    value = json.loads(status(capsys, "--json"))
    assert value["counter"] is None
    assert value["device"]["problem"] == "no device keeps its state there"
    assert "none: no device keeps its state there" in " ".join(status(capsys).split())
    assert not folder.exists()
    assert cli.main(["tee", "status", "--state", ""]) == 2
    assert capsys.readouterr().err == "error: --state '' is not a path\n"


def test_a_device_whose_fuses_or_counter_were_removed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SealedStore.open(tmp_path) as store:
        store.put("a", b"data")
    fuses = (tmp_path / "fuses").read_bytes()
    (tmp_path / "fuses").unlink()
    assert cli.main(["tee", "status", "--json", "--state", str(tmp_path)]) == 1
    assert "fuses: missing, though there is sealed state" in capsys.readouterr().err
    (tmp_path / "fuses").write_bytes(fuses)
    (tmp_path / "fuses").chmod(0o600)
    (tmp_path / "counter").unlink()
    assert cli.main(["tee", "status", "--json", "--state", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "counter: missing, though there are sealed objects" in shown.err


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PTMO_STATE": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"PTMO_STATE": "", "XDG_STATE_HOME": "/b"}, "/b/ptmo"),
        ({"HOME": "/c"}, "/c/.local/state/ptmo"),
    ],
)
def test_the_default_folder_follows_the_environment(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PTMO_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(default_state_folder()) == folder


def test_a_counter_that_the_core_reports_is_shown() -> None:
    made = TeeReport({"counter": 7, "hardening": {}}, {}, "mlock", AuditTail((), 0, bytes(32)))
    assert made.as_json()["counter"] == 7


def test_every_protection_says_what_is_open_without_it() -> None:
    assert set(HARDENING_BITS) | {"arena"} == set(LOSSES)
