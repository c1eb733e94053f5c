"""Sealed objects and the rollback counter: each kind of change is refused under its own code."""

import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from tee_helpers import ROOT_KEY

from tee_sim import sealed_format
from tee_sim.device import Device
from tee_sim.errors import ResultCode, TeeError
from tee_sim.memory import Budget
from tee_sim.protocol import TA_KV, TA_STORE
from tee_sim.storage import SealedStorage

GOLDEN = json.loads(
    (Path(__file__).resolve().parent.parent / "vectors" / "tee_sealed.json").read_text()
)
A, B, C = (bytes([letter]) * 32 for letter in b"ABC")

# What a changed byte of a field is called. Fields not listed are covered by the tag alone.
OBJECT_FLIPS = {range(0, 10): "BAD_FORMAT", range(84, 92): "TRUNCATED"}
RECORD_FLIPS = {range(0, 10): "BAD_FORMAT", range(12, 16): "TRUNCATED"}


def device(record=b"", root=ROOT_KEY, budget=None):
    """A device as it is after a start, in this process."""
    made = Device(budget or Budget(), bytearray(root))
    made.counter.start(record)
    return made


class Machine:
    """A device with its `store` objects, and the record that its supplicant keeps."""

    def __init__(self, record=b"", uuid=TA_STORE):
        self.device = device(record)
        self.storage = SealedStorage(self.device, uuid)

    @property
    def record(self):
        return self.device.counter.record()

    def seal(self, object_id, plain):
        return b"".join(self.storage.seal(object_id, plain))

    def put(self, object_id, plain):
        sealed = self.seal(object_id, plain)
        self.storage.commit(object_id)
        return sealed


def code_of(call, *args):
    """The name of the code under which a call is refused."""
    with pytest.raises(TeeError) as refused:
        call(*args)
    return ResultCode(refused.value.code).name


def flips(data):
    """Every byte of `data` changed in one bit, then in all: (position, changed)."""
    for at in range(len(data)):
        for mask in (1 << at % 8, 0xFF):
            changed = bytearray(data)
            changed[at] ^= mask
            yield at, bytes(changed)


def expected(fields, at):
    return next((code for where, code in fields.items() if at in where), "MAC_INVALID")


@pytest.mark.parametrize("vector", GOLDEN)
def test_the_checked_in_objects_and_records_open(vector):
    object_id, sealed, plain = (bytes.fromhex(vector[k]) for k in ("object_id", "sealed", "plain"))
    for name in ("record_before", "record_after"):
        opened = device(bytes.fromhex(vector[name]), bytes.fromhex(vector["root"]))
        storage = SealedStorage(opened, tuple(vector["application"]))
        assert storage.unseal(object_id, sealed) == plain
        after = bytearray(bytes.fromhex(vector["record_after"]))
        struct.pack_into("<Q", after, 40, 2)  # one more start
        assert opened.counter.record()[:-32] == after[:-32]


@pytest.mark.parametrize("vector", GOLDEN)
def test_every_changed_byte_of_a_checked_in_object_is_refused_under_its_code(vector):
    object_id, sealed, record = (
        bytes.fromhex(vector[k]) for k in ("object_id", "sealed", "record_after")
    )
    opened = device(record, bytes.fromhex(vector["root"]))
    storage = SealedStorage(opened, tuple(vector["application"]))
    for at, changed in flips(sealed):
        assert code_of(storage.unseal, object_id, changed) == expected(OBJECT_FLIPS, at), at
    assert storage.unseal(object_id, sealed) == bytes.fromhex(vector["plain"])


@pytest.mark.parametrize("vector", GOLDEN)
def test_every_changed_byte_of_a_checked_in_record_is_refused_under_its_code(vector):
    record = bytes.fromhex(vector["record_after"])
    for at, changed in flips(record):
        code = code_of(device, changed, bytes.fromhex(vector["root"]))
        assert code == expected(RECORD_FLIPS, at), at


def test_the_checked_in_file_is_what_the_generator_writes(load_generator):
    assert json.loads(json.dumps(load_generator.sealed_vectors())) == GOLDEN


def test_an_object_is_gcm_siv_under_the_documented_key_as_an_independent_reading_has_it():
    machine = Machine()
    sealed = machine.put(A, b"plain text")
    ssk = hmac.digest(
        hmac.digest(b"ptmo-secure/tee/v1", ROOT_KEY, hashlib.sha256), b"ptmo/v1/ssk\x01", "sha256"
    )
    uuid = bytes.fromhex("e25b0d7491a64f388d17c6f2095b3ae4")
    tsk = hmac.digest(ssk, b"ptmo/v1/tsk/" + uuid + b"\x01", "sha256")
    key = hmac.digest(tsk, b"ptmo/v1/sealed-objects\x01", "sha256")
    header, nonce = sealed[:104], sealed[92:104]
    assert header[:28] == b"PTMOSEAL" + b"\x01\0\0\0" + uuid
    assert (header[28:60], header[76:92]) == (A, struct.pack("<QQ", 1, 10))
    assert AESGCMSIV(key).decrypt(nonce, sealed[104:], header) == b"plain text"
    record = machine.record
    mac_key = hmac.digest(ssk, b"ptmo/v1/rollback-counter\x01", "sha256")
    assert record[-32:] == hmac.digest(mac_key, record[:-32], "sha256")
    assert record[48:-32] == uuid + A + struct.pack("<Q", 1) + sealed[-16:]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70_000])
def test_what_was_sealed_opens_again_after_a_restart(size):
    machine, plain = Machine(), bytes(range(256)) * 300
    sealed = machine.put(A, plain[:size])
    assert len(sealed) == size + sealed_format.SEALED_OVERHEAD_BYTES
    assert Machine(machine.record).storage.unseal(A, sealed) == plain[:size]


def test_every_other_length_of_an_object_or_record_is_called_truncated():
    machine = Machine()
    sealed = machine.put(A, b"some text")
    for end in range(len(sealed)):
        assert code_of(machine.storage.unseal, A, sealed[:end]) == "TRUNCATED", end
    assert code_of(machine.storage.unseal, A, sealed + b"\0") == "TRUNCATED"
    assert code_of(machine.storage.unseal, B, b"") == "ITEM_NOT_FOUND"
    record = machine.record
    for end in range(1, len(record)):
        assert code_of(Machine, record[:end]) == "TRUNCATED", end
    assert code_of(Machine, record + b"\0") == "TRUNCATED"


def test_two_swapped_objects_are_refused_by_name():
    machine = Machine()
    one, other = machine.put(A, b"one"), machine.put(B, b"other")
    assert code_of(machine.storage.unseal, A, other) == "WRONG_OBJECT"
    assert code_of(machine.storage.unseal, B, one) == "WRONG_OBJECT"


def test_another_application_cannot_open_an_object_not_even_under_its_id():
    machine = Machine()
    sealed = machine.put(A, b"mine")
    other = SealedStorage(machine.device, TA_KV)
    assert code_of(other.unseal, A, sealed) == "MAC_INVALID"
    as_theirs = bytearray(sealed)
    as_theirs[12:28] = b"".join(half.to_bytes(8, "big") for half in TA_KV)
    assert code_of(other.unseal, A, bytes(as_theirs)) == "MAC_INVALID"
    theirs = b"".join(other.seal(A, b"theirs"))
    other.commit(A)
    assert other.unseal(A, theirs) == b"theirs"
    assert machine.storage.unseal(A, sealed) == b"mine"  # equal ids do not disturb each other


def test_another_device_cannot_open_an_object_or_a_record():
    machine = Machine()
    sealed, record = machine.put(A, b"mine"), machine.record
    stranger = device(root=bytes(32))
    assert code_of(SealedStorage(stranger, TA_STORE).unseal, A, sealed) == "MAC_INVALID"
    assert code_of(device, record, bytes(32)) == "MAC_INVALID"


@pytest.mark.parametrize("restart", [False, True])
def test_an_older_version_is_rolled_back(restart):
    machine = Machine()
    old, new = machine.put(A, b"old"), machine.put(A, b"new")
    machine.put(B, b"something else")
    if restart:
        machine = Machine(machine.record)
    assert code_of(machine.storage.unseal, A, old) == "ROLLED_BACK"
    assert machine.storage.unseal(A, new) == b"new"


def test_what_was_sealed_and_given_up_opens_no_more_once_something_else_was_committed():
    machine = Machine()
    machine.put(A, b"committed")
    given_up = machine.seal(B, b"given up")
    pending = machine.seal(C, b"about to be committed")
    assert code_of(machine.storage.unseal, B, given_up) == "COUNTER_ROLLED_BACK"
    assert machine.storage.unseal(C, pending) == b"about to be committed"
    restarted = Machine(machine.record)  # where everything but this is settled
    assert code_of(restarted.storage.unseal, B, given_up) == "COUNTER_ROLLED_BACK"


def test_of_two_versions_sealed_for_one_value_only_the_committed_one_opens():
    machine = Machine()
    lost = machine.seal(A, b"lost in a crash")
    kept = machine.put(A, b"kept")
    assert lost[76:84] == kept[76:84]  # the counter is the same
    assert code_of(machine.storage.unseal, A, lost) == "ROLLED_BACK"
    assert machine.storage.unseal(A, kept) == b"kept"


def test_an_object_written_before_a_crash_is_taken_over_and_its_forerunner_is_not():
    machine = Machine()
    old = machine.put(A, b"old")
    record, new = machine.record, machine.seal(A, b"new")
    assert Machine(record).storage.unseal(A, old) == b"old"  # the new one never reached the disk
    restarted = Machine(record)
    assert restarted.storage.unseal(A, new) == b"new"
    assert restarted.device.counter.value == 2
    assert code_of(restarted.storage.unseal, A, old) == "ROLLED_BACK"
    assert code_of(Machine(restarted.record).storage.unseal, A, old) == "ROLLED_BACK"


def test_an_older_record_is_told_by_every_object_it_does_not_know():
    machine = Machine()
    machine.put(A, b"first")
    stale = machine.record
    new_a, new_b, new_c = machine.put(A, b"A"), machine.put(B, b"B"), machine.put(C, b"C")
    for object_id, sealed in ((B, new_b), (C, new_c)):
        assert code_of(Machine(stale).storage.unseal, object_id, sealed) == "COUNTER_ROLLED_BACK"
    # One ahead cannot be told from a crash, and is the newest of its kind anyway. What came after
    # it is told as soon as the counter has moved on by another way than before.
    forked = Machine(stale)
    assert forked.storage.unseal(A, new_a) == b"A"
    forked.put(C, b"another history")
    assert code_of(forked.storage.unseal, B, new_b) == "COUNTER_ROLLED_BACK"


def test_a_removed_record_makes_every_object_unknown():
    machine = Machine()
    first, second = machine.put(A, b"A"), machine.put(B, b"B")
    fresh = Machine()
    assert code_of(fresh.storage.unseal, A, first) == "COUNTER_ROLLED_BACK"  # although it is next
    assert code_of(fresh.storage.unseal, B, second) == "COUNTER_ROLLED_BACK"


def test_a_forgotten_object_stays_forgotten():
    machine = Machine()
    sealed = machine.put(A, b"A")
    not_committed = machine.seal(A, b"A, later")
    machine.storage.forget(A)
    assert code_of(machine.storage.forget, A) == "ITEM_NOT_FOUND"
    assert code_of(machine.storage.commit, A) == "BAD_STATE"
    for now in (machine, Machine(machine.record)):
        for version in (sealed, not_committed):
            assert code_of(now.storage.unseal, A, version) == "COUNTER_ROLLED_BACK"
    again = machine.put(A, b"again")
    assert machine.storage.unseal(A, again) == b"again"


def test_nothing_is_sealed_or_opened_before_the_counter_was_started_and_it_starts_once():
    unstarted = Device(Budget(), bytearray(ROOT_KEY))
    storage = SealedStorage(unstarted, TA_STORE)
    assert code_of(storage.seal, A, b"") == "BAD_STATE"
    assert code_of(storage.unseal, A, b"") == "BAD_STATE"
    assert code_of(unstarted.counter.record) == "BAD_STATE"
    unstarted.counter.start(b"")
    assert code_of(unstarted.counter.start, b"") == "BAD_STATE"
    assert code_of(storage.commit, A) == "BAD_STATE"  # nothing was sealed
    storage.seal(A, b"")
    storage.seal(B, b"")
    assert code_of(storage.commit, A) == "BAD_STATE"  # B was sealed last


def test_equal_objects_do_not_look_alike():
    machine = Machine()
    one, other = machine.seal(A, b"same"), machine.seal(A, b"same")
    assert one[104:] != other[104:]


def test_as_many_objects_as_a_record_names_and_not_one_more():
    machine = Machine()
    ids = [i.to_bytes(32, "big") for i in range(sealed_format.MAX_OBJECTS + 1)]
    for object_id in ids[:-1]:
        machine.put(object_id, b"")
    machine.seal(ids[-1], b"")
    assert code_of(machine.storage.commit, ids[-1]) == "STORAGE_NO_SPACE"
    assert len(machine.record) == sealed_format.MAX_RECORD_BYTES
    machine.put(ids[0], b"a new version is no new object")
    assert len(Machine(machine.record).device.counter) == sealed_format.MAX_OBJECTS
    machine.storage.forget(ids[0])
    machine.put(ids[-1], b"")


def test_the_counters_entries_are_paid_for_and_given_back():
    budget = Budget(1024)
    paid = device(budget=budget)
    storage = SealedStorage(paid, TA_STORE)
    for object_id in (A, B):
        storage.seal(object_id, b"")
        storage.commit(object_id)
    assert budget.used_bytes == 1024
    storage.seal(C, b"")
    assert code_of(storage.commit, C) == "OUT_OF_MEMORY"
    assert code_of(device, paid.counter.record(), ROOT_KEY, Budget(1023)) == "OUT_OF_MEMORY"
    storage.forget(A)
    assert budget.used_bytes == 512
