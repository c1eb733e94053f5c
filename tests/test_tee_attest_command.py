"""`ptmo tee attest` and `ptmo tee verify`: the pipe between them, and everything that breaks it."""

import base64
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ptmo_secure import _native, appraisal, attestation, cli
from ptmo_secure.attestation import ENROLMENT
from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.sealed.paths import default_state_folder
from ptmo_secure.sealed.store import SealedStore
from tee_sim.protocol import HARDENING_BITS
from tee_sim.verify import PROTECTIONS, REQUIRED, EvidenceError, unverified

NONCE = "00112233445566778899aabbccddeeff"
OTHER_NONCE = "ff" * 16
CLAIMS = [
    *("nonce", "ueid", "debug", "boot_count", "counter", "epoch", "measurement"),
    *("hpke_key", "arena", "hardening", "downgrades", "audit"),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a device yet."""
    folder = tmp_path / "state"
    monkeypatch.setenv("PTMO_STATE", str(folder))
    return folder


class Machine:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys = capsys
        self.monkeypatch = monkeypatch
        self.err = ""

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(["tee", *arguments])
        streams = self.capsys.readouterr()
        self.err = streams.err
        return code, streams.out

    def attest(self, *options: str, nonce: str = NONCE) -> dict[str, object]:
        code, out = self.run("attest", "--nonce", nonce, "--json", *options)
        assert code == 0 and out.count("\n") == 1
        value: dict[str, object] = json.loads(out)
        return value

    def verify(self, token: object, *options: str, nonce: str = NONCE) -> tuple[int, dict]:
        stdin = token if isinstance(token, bytes) else json.dumps(token).encode()
        code, out = self.run("verify", "--nonce", nonce, "--json", *options, stdin=stdin)
        return code, json.loads(out) if out else {}

    def refused(self, token: object, *options: str, nonce: str = NONCE) -> str:
        """The check that refused, which all three outputs name."""
        code, value = self.verify(token, *options, nonce=nonce)
        assert code == 1 and list(value) == ["verified", "check", "error"]
        assert value["verified"] is False
        assert value["error"].startswith(f"evidence refused: {value['check']}: ")
        assert self.err == f"error: {value['error']}\n"
        return str(value["check"])


@pytest.fixture
def machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(capsys, monkeypatch)


def test_the_documented_pipe_works_on_a_fresh_machine_and_again(state: Path) -> None:
    ptmo = f"{sys.executable} -m ptmo_secure tee"
    line = f"{ptmo} attest --nonce {NONCE} --json | {ptmo} verify --nonce {NONCE} --json"
    counts = []
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        value = json.loads(done.stdout)
        assert value["verified"] is True and list(value["claims"]) == CLAIMS
        assert (value["claims"]["nonce"], value["claims"]["debug"]) == (NONCE, False)
        counts.append(value["claims"]["boot_count"])
    assert counts == [1, 2]
    names = {path.name for path in state.iterdir()}
    assert names == {"fuses", "counter", "objects", "audit", ENROLMENT, appraisal.MEMORY}
    for path in [state, *state.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_json_of_attest_has_token_keys_and_claims(machine: Machine, state: Path) -> None:
    value = machine.attest()
    assert list(value) == ["token", "keys", "claims", "enrolment", "enrolled"]
    claims, keys = value["claims"], value["keys"]
    assert isinstance(claims, dict) and isinstance(keys, dict)
    assert list(claims) == CLAIMS and list(claims["hardening"]) == list(HARDENING_BITS)
    assert claims["arena"] in ("memfd_secret", "memfd")
    assert ("arena" in claims["downgrades"]) == (claims["arena"] == "memfd")
    assert (state / ENROLMENT).read_text() == json.dumps(keys, indent=1) + "\n"
    assert (value["enrolment"], value["enrolled"]) == (str(state / ENROLMENT), True)
    root = (state / "fuses").read_bytes()[8:40].hex()
    assert root not in json.dumps(value)


@pytest.mark.parametrize("algorithm", ["eddsa", "es256"])
def test_a_token_is_read_in_every_form(machine: Machine, tmp_path: Path, algorithm: str) -> None:
    code, text = machine.run("attest", "--nonce", NONCE, "--algorithm", algorithm)
    assert code == 0 and text.count("\n") == 1
    assert "Evidence of a simulated TEE" in machine.err and "hardening.system_calls" in machine.err
    token = base64.urlsafe_b64decode(text.strip() + "==")
    forms = [
        text.encode(),
        text.strip().encode() + b"==",
        json.dumps({"token": text.strip()}).encode(),
        token.hex().encode(),
        token.hex().upper().encode() + b"\n",
        token,
    ]
    for form in forms:
        assert machine.verify(form)[0] == 0
    path = tmp_path / "token"
    path.write_bytes(token)
    code, out = machine.run("verify", "--nonce", NONCE, str(path))
    assert code == 0 and "Verified evidence of a simulated TEE" in out
    assert unverified(token).ueid.hex() in out and machine.err == ""
    code, _ = machine.run("verify", "--nonce", OTHER_NONCE, str(path))
    assert code == 1
    assert machine.err == (
        "error: evidence refused: nonce: stale: the token answers another nonce\n"
    )


NO_TOKENS = [
    *(b"", b"\n", b"{", b"{}", b"[]", b'{"token": 7}', b'{"token": {"token": "aa"}}', b"~~~~"),
    *(b"[" * 60_000, b'{"token":' * 7000, b"\xff\xfe", b"a", b"abcdeg", b"d284", b"0oQ"),
    *(b"\xd2\x84", b"\xd2\x84" + bytes(600), b"null", b'{"token": null}', "\u00e9".encode()),
]


def test_what_is_no_token_is_malformed(machine: Machine) -> None:
    machine.attest()
    for text in NO_TOKENS:
        assert machine.refused(text) == "malformed", text[:20]


def test_input_longer_than_any_token_is_bad_input(machine: Machine) -> None:
    machine.attest()
    most = appraisal.MAX_TOKEN_TEXT_BYTES
    assert machine.refused(b"a" * most) == "malformed"
    assert machine.verify(b"a" * (most + 1)) == (2, {})
    assert machine.err == "error: -: longer than any token\n"


def test_a_stale_nonce_a_changed_token_and_another_device_are_refused_by_name(
    machine: Machine, tmp_path: Path
) -> None:
    value = machine.attest()
    assert machine.refused(value, nonce=OTHER_NONCE) == "nonce"
    changed = dict(value)
    changed["token"] = str(value["token"])[:-8] + "AAAAAAAA"
    assert machine.refused(changed) == "signature"
    other = machine.attest("--state", str(tmp_path / "other"))
    assert machine.refused(other) == "unknown_key"  # though it brings its keys along
    both = ("--enrolled", str(tmp_path / "other" / ENROLMENT), "--enrolled", value["enrolment"])
    assert machine.verify(other, *both[:2])[0] == 0
    assert machine.refused(value, *both[:2]) == "unknown_key"
    assert machine.verify(value, *both)[0] == 0


def test_the_memory_refuses_what_is_older_than_what_was_seen(machine: Machine, state: Path) -> None:
    first = machine.attest()
    with SealedStore.open(state) as store:
        old = attestation.Attestation(store.tee.evidence(bytes.fromhex(NONCE)), *[None] * 3).text
        store.put("a", b"1")
        new = attestation.Attestation(store.tee.evidence(bytes.fromhex(NONCE)), *[None] * 3).text
    for value, code in ((first, 0), (first, 0), (new.encode(), 0), (new.encode(), 0)):
        assert machine.verify(value)[0] == code
    assert machine.refused(old.encode()) == "counter"
    assert machine.refused(first) == "boot_count"
    assert machine.verify(new.encode())[0] == 0  # a refused token changes nothing
    forgetful = ("--memory", str(state / "elsewhere" / "seen.json"))
    assert machine.verify(first, *forgetful)[0] == 0
    assert machine.verify(new.encode(), *forgetful)[0] == 0
    assert machine.refused(first, *forgetful) == "boot_count"


def test_a_rolled_back_device_is_refused(machine: Machine, state: Path, tmp_path: Path) -> None:
    machine.attest()
    shutil.copytree(state, tmp_path / "copy")
    for _ in range(2):
        assert machine.verify(machine.attest())[0] == 0
    shutil.copy(tmp_path / "copy" / "counter", state / "counter")
    assert machine.refused(machine.attest()) == "boot_count"  # a lower number
    # As often as it was started since: the number is the one that was seen, the start is not.
    assert machine.refused(machine.attest()) == "boot_count"


def test_a_damaged_memory_is_not_taken_for_an_empty_one(machine: Machine, state: Path) -> None:
    value = machine.attest()
    assert machine.verify(value)[0] == 0
    for text in ("", "{}", '""', "0", "[1]", '["zz"]', '["a0"]', "[" * 9999, '[{"a": 1}]'):
        (state / appraisal.MEMORY).write_text(text)
        assert machine.verify(value) == (1, {}), text
        assert machine.err.endswith("verifier.json: the verifier's memory is damaged\n")
    (state / appraisal.MEMORY).write_text("[]")
    assert machine.verify(value)[0] == 0


def test_the_record_of_another_device_is_kept_and_refuses_this_one(
    machine: Machine, state: Path
) -> None:
    machine.attest()
    record = (state / ENROLMENT).read_bytes()
    for path in (state / "fuses", state / "counter"):
        path.unlink()
    value = machine.attest()
    assert value["enrolled"] is False and (state / ENROLMENT).read_bytes() == record
    assert "is another device's record: a verifier will refuse this one" in machine.err
    assert machine.refused(value) == "unknown_key"


def spoilt_records(record: dict[str, str]) -> list[str]:
    return [
        *("", "{}", "[]", "null", "7", "[" * 4000),
        *(json.dumps({**record, name: value}) for name in record for value in ("", "zz", None, 7)),
        json.dumps({**record, "eddsa": record["eddsa"][:-2]}),
        json.dumps({**record, "es256": record["es256"][:-2] + "00"}),
        json.dumps({**record, "ueid": "01" + "00" * 32}),
        json.dumps(record) + "x" * 9000,
    ]


def test_a_missing_or_damaged_record_is_bad_input(machine: Machine, state: Path) -> None:
    value = machine.attest()
    path = state / ENROLMENT
    record = json.loads(path.read_text())
    for text in spoilt_records(record):
        path.write_text(text)
        assert machine.verify(value) == (2, {}), text
        assert machine.err.startswith(f"error: {path}: no enrolment record"), text
    path.unlink()
    assert machine.verify(value) == (2, {})
    assert machine.err == (
        f"error: {path}: No such file or directory; `ptmo tee attest` makes it\n"
    )


@pytest.mark.parametrize("nonce", ["", "0", "xyz", "00" * 7, "00" * 65, "0x" + "00" * 8, " 00" * 8])
def test_a_nonce_that_is_none_is_bad_input(machine: Machine, nonce: str, state: Path) -> None:
    for command in ("attest", "verify"):
        assert machine.run(command, "--nonce", nonce, "--json") == (2, "")
        assert machine.err.startswith("error: the nonce ") and machine.err.count("\n") == 1
    assert not state.exists()


def test_verify_without_a_nonce_is_bad_usage(machine: Machine) -> None:
    assert machine.run("verify", "--json") == (2, "")
    assert "--nonce" in machine.err


def test_attest_draws_a_nonce_when_it_is_given_none(machine: Machine) -> None:
    drawn = set()
    for _ in range(2):
        code, out = machine.run("attest", "--json")
        assert code == 0
        drawn.add(json.loads(out)["claims"]["nonce"])
    assert len(drawn) == 2 and {len(nonce) for nonce in drawn} == {64}
    nonce = json.loads(out)["claims"]["nonce"]
    assert machine.verify(out.encode(), nonce=nonce)[0] == 0


def test_other_options_are_checked(machine: Machine, tmp_path: Path) -> None:
    value = machine.attest()
    for options, text in (
        (("--require", "arenas"), "no protection 'arenas'"),
        (("--measurement", "00"), "the measurement has 1 bytes, not 32"),
        (("--measurement", "g" * 64), "is not hexadecimal"),
        (("--enrolled", str(tmp_path / "none")), "No such file"),
    ):
        assert machine.verify(value, *options) == (2, {})
        assert text in machine.err
    assert machine.run("verify", "--nonce", NONCE, str(tmp_path / "none"))[0] == 2
    assert machine.run("attest", "--nonce", NONCE, "--algorithm", "rsa") == (2, "")
    assert machine.err == "error: unknown algorithm 'rsa': choose from eddsa, es256\n"
    (tmp_path / "file").write_text("")
    assert machine.run("attest", "--state", str(tmp_path / "file")) == (2, "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--memory", ""), "--memory '' is not a path"),
        (("--memory", "."), ".: Is a directory"),
        (("--memory", "{file}/memory"), "{file}: File exists"),
        (("--enrolled", ""), "--enrolled '' is not a path"),
        (("--enrolled", "."), ".: Is a directory; `ptmo tee attest` makes it"),
        ((" ",), "FILE ' ' is not a path"),
        ((".",), ".: Is a directory"),
    ],
)
def test_a_path_that_is_none_is_bad_input_of_one_line(
    machine: Machine, tmp_path: Path, options: tuple[str, ...], text: str
) -> None:
    value, file = machine.attest(), tmp_path / "file"
    file.write_text("")
    given = [option.format(file=file) for option in options]
    assert machine.verify(value, *given) == (2, {})
    assert machine.err == f"error: {text.format(file=file)}\n"


def test_the_help_of_verify_lists_every_protection_that_can_be_required(machine: Machine) -> None:
    code, out = machine.run("verify", "--help")
    names = re.search(r"--require takes: (.*?)\. (.*) are always\s+required", out, re.DOTALL)
    assert code == 0 and names is not None
    listed = re.sub(r"\([^)]*\)", "", names[1]).replace(",", " ").split()
    assert listed == [*PROTECTIONS]
    assert sorted(re.findall(r"\w+_\w+", names[2])) == sorted(REQUIRED)
    assert "--require arena --require system_calls token.txt" in out


def test_software_that_the_verifier_does_not_run_itself_can_be_accepted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = machine.attest()
    claims = value["claims"]
    assert isinstance(claims, dict)
    monkeypatch.setattr(appraisal, "reference_measurement", lambda: bytes(32))
    assert machine.refused(value) == "measurement"
    assert machine.refused(value, "--measurement", "11" * 32) == "measurement"
    accepted = ("--measurement", "11" * 32, "--measurement", claims["measurement"])
    assert machine.verify(value, *accepted)[0] == 0


def test_a_machine_without_an_arena_shows_it_and_can_be_refused_for_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: int) -> None:
        raise RuntimeError("mlock: cannot allocate")

    monkeypatch.setattr(_native, "SecretArena", refuse)
    value = machine.attest()
    claims = value["claims"]
    assert isinstance(claims, dict)
    assert claims["arena"] == "none" and "arena" in claims["downgrades"]
    assert machine.verify(value)[0] == 0
    assert machine.refused(value, "--require", "no_core_dumps", "--require", "arena") == (
        "protection"
    )


def test_a_device_with_a_root_key_of_somebodys_choice_is_refused(
    machine: Machine, state: Path
) -> None:
    with SealedStore.open(state, debug_root_key=bytes(range(32))) as store:
        token = store.tee.evidence(bytes.fromhex(NONCE))
    keys = attestation.keys_as_json(unverified(token).identity)
    (state / ENROLMENT).write_text(json.dumps(keys))
    assert machine.refused(token) == "debug"


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTMO_STATE", "/a/b")
    assert default_state_folder() == Path("/a/b")
    monkeypatch.delenv("PTMO_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state_folder() == Path("/x/ptmo")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert default_state_folder() == Path.home() / ".local" / "state" / "ptmo"


def test_the_tests_themselves_use_no_device_of_the_users() -> None:
    assert os.environ["PTMO_STATE"] and not default_state_folder().is_relative_to(Path.home())


def test_the_python_calls_raise_what_they_say(state: Path) -> None:
    made = attestation.attest(state, bytes(8))
    record, memory = [made.enrolment], state / appraisal.MEMORY
    with pytest.raises(InputError, match="unknown algorithm 'x'"):
        attestation.attest(state, bytes(8), "x")
    with pytest.raises(appraisal.RefusedEvidence, match="nonce") as refused:
        appraisal.appraise(made.token, bytes(9), record, memory)
    assert refused.value.check == "nonce" and isinstance(refused.value, SecurityError)
    assert appraisal.appraise(made.token, bytes(8), record, memory) == made.evidence
    with pytest.raises(EvidenceError, match="malformed"):
        appraisal.token_of(b"?")
