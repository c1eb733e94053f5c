"""`ptmo tee audit`: the logs that starts leave, and everything that is done to them."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ptmo_secure import audit, cli
from ptmo_secure.attestation import ENROLMENT
from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.sealed import kept_log
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import AuditRecord, TeeError, audit_names

SECRET = b"a text that no log may hold"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An enrolled device after three starts."""
    folder = tmp_path / "device"
    assert cli.main(["tee", "attest", "--state", str(folder), "--json"]) == 0
    use(folder)
    with SealedStore.open(folder) as store:
        store.get("mine")
        with pytest.raises(InputError):
            store.get("nothing")
    return folder


def use(folder: Path) -> None:
    with SealedStore.open(folder) as store:
        for _ in range(3):
            store.put("mine", SECRET)


def logs(folder: Path) -> list[Path]:
    return sorted((folder / "audit").iterdir())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["tee", "audit", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def refused(folder: Path) -> str:
    """The text of a SecurityError, without the folder of the logs."""
    with pytest.raises(SecurityError) as error:
        audit.read_logs(folder)
    text = str(error.value)
    assert text.startswith(f"{folder}/audit/") and "\n" not in text
    return text.partition(": ")[2]


def test_every_start_leaves_its_log_and_the_command_shows_them(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--state", state, "--json")
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert [start["boot"] for start in value["starts"]] == [1, 2, 3]
    assert value["missing_starts"] == [] and value["state"] == str(state)
    assert value["ueid"] == json.loads((state / ENROLMENT).read_text())["ueid"]
    puts = [row for row in value["starts"][1]["records"] if row["request"] == "store.SEAL"]
    assert sum(row["calls"] for row in puts) == 3 and puts[0]["bytes_in"] == len(SECRET)
    assert value["starts"][1]["refused"] == 0 and value["starts"][2]["refused"] == 1
    assert [
        (row["request"], row["calls"])
        for row in value["starts"][2]["records"]
        if row["result"] == "ITEM_NOT_FOUND"
    ] == [("store.UNSEAL", 1)]
    code, out, _ = run(capsys, "--state", state)
    assert code == 0 and "Audit logs of a simulated TEE, verified" in out
    code, out, _ = run(capsys, "--state", state, "--start", 3)
    assert code == 0 and "Audit log of start 3, verified" in out and "ITEM_NOT_FOUND" in out
    for path in logs(state):
        assert path.stat().st_mode & 0o777 == 0o600
        assert SECRET not in path.read_bytes() and b"mine" not in path.read_bytes()


def test_what_is_not_there_is_bad_input(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, text in (
        (("--state", tmp_path), "no start of a device left a log there"),
        (("--state", state, "--start", 4), f"start 4 left no log in {state}"),
        (("--state", state, "--enrolled", tmp_path / "none"), "No such file or directory"),
        (("--state", state, "--enrolled", ""), "--enrolled '' is not a path"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "") and text in err and err.count("\n") == 1
    (state / ENROLMENT).unlink()
    code, _, err = run(capsys, "--state", state)
    assert code == 2 and "`ptmo tee attest` makes it" in err


def test_a_change_of_any_byte_of_a_log_is_refused(state: Path) -> None:
    path = logs(state)[1]
    whole = path.read_bytes()
    size = 4 + int.from_bytes(whole[:4], "little")  # of the token
    attested = audit.read_logs(state)[1]
    used = size + 32 + 76 * len(attested.records)
    assert used < len(whole)  # then come the records of taking the log itself
    step = 7  # each seventh byte, and all where parts meet
    for at in sorted({*range(0, used, step), *range(size - 4, size + 40), *range(used - 76, used)}):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refused(state).startswith(("evidence refused: ", "audit log: ")), at
    for end in (0, 3, 4, size, size + 31, size + 32, used - 1, used - 76):
        path.write_bytes(whole[:end])
        assert refused(state), end
    path.write_bytes(whole[: size + 32] + whole[size + 32 + 76 :])
    assert refused(state).startswith("audit log: ")
    path.write_bytes(whole[:used])
    assert audit.read_logs(state)[1] == attested


def test_the_log_of_another_start_or_device_is_refused_by_name(state: Path, tmp_path: Path) -> None:
    first, second, third = logs(state)
    whole = third.read_bytes()
    third.write_bytes(second.read_bytes())
    assert refused(state) == "the log of start 2"
    third.write_bytes(whole)
    use(tmp_path / "other")
    shutil.copy(logs(tmp_path / "other")[0], first)
    assert refused(state) == "evidence refused: unknown_key: signed by no enrolled device"


def test_a_start_that_was_killed_or_whose_log_was_removed_is_missed(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SealedStore.open(state) as store:
        os.kill(store.tee.pid, signal.SIGKILL)
        store.tee._channel.process.wait(10)
    use(state)
    logs(state)[1].unlink()
    found = audit.read_logs(state)
    assert [log.evidence.boot_count for log in found] == [1, 3, 5]
    assert audit.missing_starts(found) == [2, 4]
    code, _, err = run(capsys, "--state", state)
    assert (code, err) == (0, "no log of start 2, 4: killed, or removed\n")


def test_the_logs_of_a_device_that_was_rolled_back_say_so(state: Path, tmp_path: Path) -> None:
    shutil.copytree(state, tmp_path / "before")
    use(state)
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file() and path.parent.name != "audit":
            shutil.copy2(path, state / path.relative_to(tmp_path / "before"))
    use(state)
    assert len(logs(state)) == 5
    assert refused(state) == ("evidence refused: boot_count: start 4 is not the one that was seen")


def test_the_newest_logs_are_kept(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_log, "MOST_LOGS", 2)
    use(state)
    assert [log.evidence.boot_count for log in audit.read_logs(state)] == [3, 4]


def test_records_that_the_tee_dropped_are_counted(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_log, "MOST_RECORDS", 9)
    use(state)
    log = audit.read_logs(state)[-1]
    assert 0 < len(log.records) < 9 and log.dropped == log.records[0].number > 0


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def refusing(*_: object) -> None:
    raise TeeError(1, 1, "refused")


@pytest.mark.parametrize("failure", [full, refusing])
def test_a_log_that_cannot_be_kept_does_not_keep_a_store_from_closing(
    state: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(kept_log, "replacing", failure)
        use(state)
    with SealedStore.open(state) as store:
        assert store.get("mine") == SECRET
        tee = store.tee
    assert not tee.alive() and len(logs(state)) == 4  # the one between is missed
    assert audit.missing_starts(audit.read_logs(state)) == [4]


def test_an_interrupt_while_the_log_is_kept_ends_the_tee_all_the_same(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    store = SealedStore.open(state)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(kept_log, "replacing", interrupt)
        store.close()
    assert not store.tee.alive()
    use(state)  # the folder was let go of


def test_numbers_without_a_name_stand_for_themselves() -> None:
    record = AuditRecord(0, 0xAB, 1, 1, 0, 0, 0, 1, 1, 77, 0x1234, 4, 4)
    assert audit_names(record) == ("ab.77", "4660")
    assert audit_names(record._replace(kind=0, code=0)) == ("0", "SUCCESS")
