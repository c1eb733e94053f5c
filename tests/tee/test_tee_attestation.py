"""Evidence from a running TEE: it says how the TEE stands, and only what is true."""

import os
import shutil
import signal

import cbor2
import pytest
from tee_helpers import ROOT_KEY, SMALL, Arena, memfd, memfd_secret

from ptmo_secure.sealed.store import SealedStore
from tee_sim import keys, spawn
from tee_sim.audit_chain import AuditTail
from tee_sim.client import Algorithm, TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.protocol import (
    GET_EVIDENCE_TYPES,
    HARDENING_BITS,
    TA_ATTEST,
    ArenaKind,
    AttestCommand,
    memref,
)
from tee_sim.verify import (
    EvidenceError,
    Verifier,
    reference_measurement,
    ueid_of,
    unverified,
)

NONCE = bytes(range(32))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


def evidence_of(tee, nonce=NONCE):
    return unverified(tee.evidence(nonce))


def identity_of(tee):
    """What an enrolment takes down."""
    return evidence_of(tee).identity


def refusal(call, *args):
    with pytest.raises(EvidenceError) as refused:
        call(*args)
    return refused.value.check


def code(call, *args, **named):
    with pytest.raises(TeeError) as refused:
        call(*args, **named)
    return refused.value.code


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("n_bytes", [8, 32, 64])
def test_a_device_is_verified_by_either_key(folder, algorithm, n_bytes):
    nonce = os.urandom(n_bytes)
    with SealedStore.open(folder) as store:
        store.put("a", b"1")
        verifier = Verifier([identity_of(store.tee)])
        token = store.tee.evidence(nonce, algorithm)
        evidence = verifier.verify(token, nonce)
        status = store.tee.status()
    assert cbor2.loads(cbor2.loads(token).value[0])[1] == algorithm
    assert evidence.nonce == nonce
    assert evidence.ueid == ueid_of(evidence.identity)
    assert (evidence.debug, evidence.boot_count, evidence.counter) == (False, 1, 1)
    assert (evidence.epoch, evidence.arena) == (0, ArenaKind.NONE)
    assert evidence.measurement == reference_measurement()
    in_force = {name: bool(evidence.hardening >> i & 1) for i, name in enumerate(HARDENING_BITS)}
    assert in_force == status["hardening"]


def raw(tee, nonce_bytes, room, value, unused=0):
    """GET_EVIDENCE with parameters that `TeeClient.evidence` would not send."""
    session = tee._session_with(TA_ATTEST)
    window = tee.register_memory(4096)
    places = (*memref(window.id, 0, nonce_bytes), *memref(window.id, 1024, room))
    values = (*places, value, unused, 0, 0)
    try:
        return tee._invoke(AttestCommand.GET_EVIDENCE, GET_EVIDENCE_TYPES, values, session)
    finally:
        window.close()


def test_a_nonce_or_algorithm_out_of_range_is_refused(tee):
    for nonce in (b"", bytes(7), bytes(65), bytes(4096)):
        assert code(tee.evidence, nonce) == ResultCode.BAD_PARAMETERS
    for value, unused in ((0, 0), (6, 0), (9, 0), (2**64 - 8, 0), (2**63, 0), (8, 1)):
        assert code(raw, tee, 32, 1024, value, unused) == ResultCode.BAD_PARAMETERS
    assert raw(tee, 32, 1024, 8)[4] == len(tee.evidence(bytes(32)))


def test_a_short_buffer_is_answered_with_the_room_that_is_needed(tee):
    token = tee.evidence(NONCE)
    for room in (0, 1, len(token) - 1):
        with pytest.raises(TeeError, match="SHORT_BUFFER") as refused:
            tee.evidence(NONCE, room_bytes=room)
        assert refused.value.needed_bytes == len(token)
    again = tee.evidence(NONCE, room_bytes=refused.value.needed_bytes)
    assert len(again) == len(token) and unverified(again).nonce == NONCE
    assert code(raw, tee, 32, 1, 8) == ResultCode.SHORT_BUFFER
    assert tee.status()["regions"] == 1  # refused memory can be given back at once
    with pytest.raises(TeeError) as other:
        tee.new_epoch(99, 0)
    assert other.value.needed_bytes == 0


def test_a_device_without_fuses_has_a_key_for_its_life_only():
    with TeeClient.launch() as first, TeeClient.launch() as second:
        one, two = evidence_of(first), evidence_of(second)
        assert (one.boot_count, one.counter, one.debug) == (0, 0, False)
        assert one.identity == evidence_of(first).identity != two.identity
        assert one.hpke_key == evidence_of(first).hpke_key != two.hpke_key
        token = second.evidence(NONCE)
        assert refusal(Verifier([identity_of(first)]).verify, token, NONCE) == "unknown_key"
        assert Verifier([identity_of(second)]).verify(token, NONCE).ueid == two.ueid


def test_a_root_key_of_the_hosts_choice_is_debugging_and_refused(tee):
    evidence = evidence_of(tee)
    assert evidence.debug_state == 0
    scalar = keys.identity_scalar(ROOT_KEY)
    assert 0 < scalar < 2**256 and keys.identity_seed(ROOT_KEY) not in tee.evidence(NONCE)
    assert refusal(Verifier([identity_of(tee)]).verify, tee.evidence(NONCE), NONCE) == "debug"


def test_a_device_with_fuses_attests_only_when_its_counter_was_started(folder):
    folder.mkdir(mode=0o700)
    with TeeClient.launch(fuses=folder / "fuses") as tee:
        assert code(tee.evidence, NONCE) == ResultCode.BAD_STATE
        tee.open_store().start(b"")
        assert evidence_of(tee).boot_count == 1


def test_a_tee_that_was_killed_attests_again_as_the_same_device(folder):
    with SealedStore.open(folder) as store:
        store.put("kept", b"1")
        verifier = Verifier([identity_of(store.tee)])
        old = store.tee.evidence(NONCE)
        first = verifier.verify(old, NONCE)
        os.kill(store.tee.pid, signal.SIGKILL)
        with pytest.raises(TeeError):
            store.tee.evidence(NONCE)
    with SealedStore.open(folder) as store:
        second = verifier.verify(store.tee.evidence(NONCE), NONCE)
        assert store.get("kept") == b"1"
    assert second.ueid == first.ueid
    assert second.boot_count == first.boot_count + 1 and second.counter == first.counter
    assert second.hpke_key != first.hpke_key
    assert refusal(verifier.verify, old, NONCE) == "boot_count"


def test_evidence_from_before_an_object_was_stored_is_refused_after_it(folder):
    with SealedStore.open(folder) as store:
        verifier = Verifier([identity_of(store.tee)])
        old = store.tee.evidence(NONCE)
        store.put("a", b"1")
        assert verifier.verify(store.tee.evidence(NONCE), NONCE).counter == 1
        assert refusal(verifier.verify, old, NONCE) == "counter"
        store.remove("a")
        assert verifier.verify(store.tee.evidence(NONCE), NONCE).counter == 2


@pytest.mark.parametrize("starts", [0, 1])
def test_a_device_whose_whole_state_was_rolled_back_is_refused(folder, tmp_path, starts):
    """What the device itself cannot notice: docs/tee.md, "Sealed storage"."""
    with SealedStore.open(folder) as store:
        store.put("a", b"1")
        verifier = Verifier([identity_of(store.tee)])
    shutil.copytree(folder, tmp_path / "copy")
    for _ in range(1 + starts):
        with SealedStore.open(folder) as store:
            store.put("a", b"2")
            verifier.verify(store.tee.evidence(NONCE), NONCE)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    with SealedStore.open(folder) as store:
        assert store.get("a") == b"1"  # it believes its files
        assert refusal(verifier.verify, store.tee.evidence(NONCE), NONCE) == "boot_count"


def test_the_arena_is_the_weakest_that_was_registered_since_the_start(tee):
    assert evidence_of(tee).arena == ArenaKind.NONE
    tee.register_memory(4096)
    assert evidence_of(tee).arena == ArenaKind.NONE
    secret = memfd_secret(4096)
    if secret is not None:
        tee.register_fd(secret, 4096)
        assert evidence_of(tee).arena == ArenaKind.MEMFD_SECRET
        assert "arena" not in evidence_of(tee).downgrades
    plain = memfd(4096)
    region = tee.register_fd(plain, 4096)
    assert evidence_of(tee).arena == ArenaKind.MEMFD
    tee._release_memory(region)
    if secret is not None:
        tee.register_fd(secret, 4096)
        os.close(secret)
    assert evidence_of(tee).arena == ArenaKind.MEMFD  # its keys may still be where they were
    assert "arena" in evidence_of(tee).downgrades
    os.close(plain)


def test_the_epoch_is_the_one_drawn_last(tee):
    arena = Arena()
    assert evidence_of(tee).epoch == 0
    tee.open_model(SMALL)
    _, epoch = tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
    assert evidence_of(tee).epoch == epoch == 2
    arena.close()


def test_the_audit_log_can_be_checked_against_the_signed_head(tee):
    tee.open_model(SMALL)
    evidence = evidence_of(tee)
    known = AuditTail((), evidence.audit_length, evidence.audit_head)
    tail = tee.audit_tail(64, known)
    assert tail.length > evidence.audit_length > 0
    assert tee.audit_tail(64, tail).length > tail.length
    forged = AuditTail((), evidence.audit_length, bytes(32))
    with pytest.raises(TeeError, match="are not those known"):
        tee.audit_tail(64, forged)
    assert evidence_of(tee).audit_head != evidence.audit_head


def test_a_protection_that_a_machine_does_not_give_shows_and_can_be_required(monkeypatch, folder):
    sabotage = "import os; os.pidfd_open = lambda pid: os.open('/no/such', 0); "
    monkeypatch.setattr(spawn, "_BOOTSTRAP", sabotage + spawn._BOOTSTRAP)
    with SealedStore.open(folder) as store:
        token, enrolled = store.tee.evidence(NONCE), identity_of(store.tee)
    assert "parent_watch" in Verifier([enrolled]).verify(token, NONCE).downgrades
    strict = Verifier([enrolled], require=["parent_watch"])
    assert refusal(strict.verify, token, NONCE) == "protection"


def test_software_that_was_changed_measures_otherwise_and_is_refused(tmp_path, monkeypatch, folder):
    package = tmp_path / "changed" / "tee_sim"
    shutil.copytree(spawn.Path(spawn.__file__).parent, package)
    with (package / "ta" / "kv.py").open("a") as file:
        file.write("# another line\n")
    real = spawn._search_path
    monkeypatch.setattr(spawn, "_search_path", lambda role: [str(package.parent), *real(role)])
    with SealedStore.open(folder) as store:
        token, enrolled = store.tee.evidence(NONCE), identity_of(store.tee)
    assert unverified(token).measurement != reference_measurement()
    assert refusal(Verifier([enrolled]).verify, token, NONCE) == "measurement"


def test_a_guard_has_no_evidence_to_give():
    with TeeClient.launch("guard") as guard:
        assert code(guard.evidence, NONCE) == ResultCode.ITEM_NOT_FOUND
