"""The guard's storage key: from the core through a pipe, once, and to nobody else."""

import contextlib
import os
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from fault_points import instrumented, program
from memory_scan import Needles, readable_mappings
from tee_helpers import ROOT_KEY

from tee_sim import keys, spawn
from tee_sim.channel import Channel
from tee_sim.client import ResultCode, TeeClient, TeeError
from tee_sim.key_pipe import receive
from tee_sim.protocol import NO_VALUES, TA_GUARD, TA_STORE, Kind
from tee_sim.vault_format import VAULT_HEADER, vault_header

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a TEE's files are root's to see")
TEXT = "My name is Quirin Zaphod, mail quirin.z@mail.com"


@pytest.fixture
def both():
    """Core and guard of a device whose root key is known."""
    core, guard = TeeClient.launch_both(debug_root_key=ROOT_KEY)
    with core, guard:
        yield core, guard


def opened(blob, storage_key):
    """The plaintext of a vault at rest, by the definition alone."""
    key = HKDFExpand(algorithm=SHA256(), length=32, info=b"ptmo/v1/vault").derive(storage_key)
    header = blob[: VAULT_HEADER.size]
    nonce = vault_header(blob).nonce
    return AESGCMSIV(key).decrypt(nonce, blob[VAULT_HEADER.size :], header)


def files_of(pid):
    """What the descriptors of a process stand for."""
    names = []
    for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the folder's own, as it was listed
            names.append(os.readlink(entry))
    return names


def refused(code, call, *arguments):
    with pytest.raises(TeeError) as error:
        call(*arguments)
    assert error.value.code == code
    return str(error.value)


# --------------------------------------------------------------------------------- which key it is


def test_a_guard_started_with_a_core_seals_under_its_own_storage_key_of_that_core(both):
    _, guard = both
    with guard.open_vault("ann") as vault:
        vault.mask(TEXT)
        blob = vault.save()
    plain = opened(blob, bytes(keys.application_key(ROOT_KEY, TA_GUARD)))
    assert b"Quirin Zaphod" in plain and b"quirin.z@mail.com" in plain
    assert struct.unpack_from("<4I", plain)[1] == 2  # values


def test_a_guard_of_its_own_draws_a_key_that_ends_with_it():
    with TeeClient.launch("guard") as guard:
        vault = guard.open_vault("ann")
        shown = vault.mask(TEXT).text
        blob = vault.save()
        vault.close()
        assert guard.load_vault(blob, "ann", vault.number).unmask(shown) == TEXT
    with TeeClient.launch("guard") as guard:
        refused(ResultCode.MAC_INVALID, guard.load_vault, blob, "ann")


def test_a_device_without_fuses_has_another_key_at_every_start():
    blobs = []
    for _ in range(2):
        core, guard = TeeClient.launch_both()
        with core, guard:
            for blob in blobs:
                refused(ResultCode.MAC_INVALID, guard.load_vault, blob, "ann")
            blobs.append(guard.open_vault("ann").save())


def test_with_fuses_vaults_open_after_core_or_guard_was_started_anew(tmp_path):
    tmp_path.chmod(0o700)
    fuses = tmp_path / "fuses"
    core, guard = TeeClient.launch_both(fuses=fuses)
    vault = guard.open_vault("ann")
    shown = vault.mask(TEXT, "surrogate").text
    core.close()
    vault.mask("My name is Ann Lee")  # the core has ended: the guard keeps its key and goes on
    blob = vault.save()
    with TeeClient.launch("core", fuses=fuses) as core:
        assert core.alive() and guard.alive()
    guard.close()
    core, guard = TeeClient.launch_both(fuses=fuses)
    with core, guard:
        assert guard.load_vault(blob, "ann").unmask(shown) == TEXT


# --------------------------------------------------------------------------------------- the pipe


@needs_root
def test_the_host_lets_go_before_there_is_a_key_and_no_process_keeps_an_end(monkeypatch):
    ends, seen = [], {}
    real_pipe, real_greet = os.pipe, spawn._greet

    def pipe():
        pair = real_pipe()
        ends.append(os.readlink(f"/proc/self/fd/{pair[0]}"))
        return pair

    def greet(channel, role, request):
        if role == "core":  # before it is initialised, and so before it has a key
            seen["host"] = [end for end in ends if end in files_of(os.getpid())]
            seen["core"] = [end for end in ends if end in files_of(channel.process.pid)]
        return real_greet(channel, role, request)

    monkeypatch.setattr(spawn.os, "pipe", pipe)
    monkeypatch.setattr(spawn, "_greet", greet)
    core, guard = TeeClient.launch_both(debug_root_key=ROOT_KEY)
    with core, guard:
        handed = ends[0]  # the others are Popen's own
        assert handed not in seen["host"] and handed in seen["core"]
        for pid in (os.getpid(), core.pid, guard.pid):
            assert handed not in files_of(pid)
        for tee in (core, guard):
            kinds = sorted(name.partition(":")[0] for name in files_of(tee.pid))
            assert kinds == ["/dev/null"] * 3 + ["anon_inode", "socket"]


def test_a_pipe_that_gives_no_whole_key_is_refused():
    for given in (b"", b"k" * 31):
        read_end, write_end = os.pipe()
        os.write(write_end, given)
        os.close(write_end)
        with pytest.raises(ValueError, match="the core gave no storage key"):
            receive(read_end)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read_end)


def test_a_guard_whose_core_died_before_it_wrote_the_key_does_not_start():
    read_end, write_end = os.pipe()
    channel = Channel(*spawn.spawn("guard", key_pipe=read_end))
    os.close(read_end)
    os.close(write_end)
    said = refused(ResultCode.COMMUNICATION, spawn._greet, channel, "guard", (NO_VALUES, 0))
    assert "the TEE did not start: the core gave no storage key" in said and "\n" not in said
    assert channel.process.returncode == 1


@pytest.mark.parametrize("role", ["core", "guard"])
def test_when_either_dies_while_they_start_both_are_gone_and_one_line_says_so(monkeypatch, role):
    started = []

    def remembered(of_role, *arguments):
        with pytest.MonkeyPatch.context() as patched:
            if of_role == role:
                armed = f"after_recv {int(Kind.INITIALIZE)} 0 1 0"
                patched.setattr(spawn, "_BOOTSTRAP", program(armed))
            process, connection = real(of_role, *arguments)
        started.append(process)
        return process, connection

    real = spawn.spawn
    monkeypatch.setattr(spawn, "spawn", remembered)
    with pytest.raises(TeeError, match="the TEE did not start") as error:
        TeeClient.launch_both(debug_root_key=ROOT_KEY)
    assert "\n" not in str(error.value)
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_no_second_key_is_written_and_a_core_outlives_a_guard_that_is_gone(monkeypatch):
    with instrumented(monkeypatch):
        core, guard = TeeClient.launch_both(debug_root_key=ROOT_KEY)
    guard.close()
    with core:
        values = (*struct.unpack("<4Q", ROOT_KEY), 0, 0, 0, 0)
        initialise = core._channel.call
        said = refused(
            ResultCode.BAD_STATE,
            lambda: initialise(Kind.INITIALIZE, "again", types=0x11, values=values),
        )
        assert "again refused" in said and core.alive()


# ----------------------------------------------------------------------------------- who sees what


def found(pid, needles):
    search = Needles(needles)
    return {name for _, _, data in readable_mappings(pid) for name, _ in search.find(data)}


@needs_root
def test_the_guard_has_no_other_key_of_the_tree_and_the_core_no_value():
    root_key = os.urandom(32)  # that of the tests is a table that some library has, too
    core, guard = TeeClient.launch_both(debug_root_key=root_key)
    with core, guard:
        check_who_sees_what(core, guard, root_key)


def check_who_sees_what(core, guard, root_key):
    store = core.open_store()
    store.start(b"")
    vault = guard.open_vault("ann")
    vault.mask(TEXT)
    sealed = store.seal(bytes(32), vault.save())
    store.commit(bytes(32))
    assert store.unseal(bytes(32), sealed)
    secrets = {
        "root": root_key,
        "ssk": bytes(keys.storage_key(root_key)),
        "counter": bytes(keys.counter_key(root_key)),
        "store": bytes(keys.application_key(root_key, TA_STORE)),
    }
    value = {"mail": b"quirin.z@mail.com"}
    assert found(guard.pid, {**secrets, **value}) == {"mail"}  # the vault's own: the control
    assert found(core.pid, value) == set()
