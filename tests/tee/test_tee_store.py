"""The `store` application as its client sees it: across the socket, in a process of its own."""

import os

import pytest
from tee_helpers import ROOT_KEY, SMALL

from tee_sim import keys
from tee_sim.client import MAX_OBJECT_BYTES, ResultCode, TeeClient, TeeError
from tee_sim.layout import KvLayout
from tee_sim.protocol import TA_STORE, StoreCommand, memref
from tee_sim.sealed_format import SEALED_OVERHEAD_BYTES
from tee_sim.store_calls import _CHANGE, _DATA

A, B = bytes([65]) * 32, bytes([66]) * 32


@pytest.fixture
def store(tee):
    opened = tee.open_store()
    opened.start(b"")
    return opened


def code_of(call, *args):
    with pytest.raises(TeeError) as refused:
        call(*args)
    return ResultCode(refused.value.code).name


def put(store, object_id, plain):
    sealed = store.seal(object_id, plain)
    return sealed, store.commit(object_id)


@pytest.mark.parametrize("size", [0, 1, 100_000, MAX_OBJECT_BYTES])
def test_an_object_survives_the_process_that_sealed_it(store, size):
    plain = os.urandom(size)
    sealed, record = put(store, A, plain)
    assert len(sealed) == size + SEALED_OVERHEAD_BYTES
    assert size < 16 or plain[:16] not in sealed
    assert store.unseal(A, sealed) == plain
    with TeeClient.launch(debug_root_key=ROOT_KEY) as restarted:
        again = restarted.open_store()
        again.start(record)
        assert again.unseal(A, sealed) == plain


def test_every_refusal_reaches_the_client_under_its_own_code(tee, store):
    first, stale = put(store, A, b"first")
    newest, _ = put(store, A, b"newest")
    other, record = put(store, B, b"other")
    changed = newest[:-1] + bytes([newest[-1] ^ 1])
    assert code_of(store.unseal, A, b"PTMOSEAX" + newest[8:]) == "BAD_FORMAT"
    assert code_of(store.unseal, A, newest[:-1]) == "TRUNCATED"
    assert code_of(store.unseal, A, bytes(MAX_OBJECT_BYTES + 200)) == "TRUNCATED"
    assert code_of(store.unseal, A, changed) == "MAC_INVALID"
    assert code_of(store.unseal, A, other) == "WRONG_OBJECT"
    assert code_of(store.unseal, A, first) == "ROLLED_BACK"
    assert code_of(store.unseal, bytes(32), b"") == "ITEM_NOT_FOUND"
    assert code_of(store.commit, A) == "BAD_STATE"
    assert code_of(store.seal, A, bytes(MAX_OBJECT_BYTES + 1)) == "BAD_PARAMETERS"
    with TeeClient.launch(debug_root_key=ROOT_KEY) as restarted:
        again = restarted.open_store()
        assert code_of(again.seal, A, b"") == "BAD_STATE"
        assert code_of(again.start, record[:-1]) == "TRUNCATED"
        assert code_of(again.start, b"PTMOCNTX" + record[8:]) == "BAD_FORMAT"
        assert code_of(again.start, record[:-1] + bytes([record[-1] ^ 1])) == "MAC_INVALID"
        assert code_of(again.start, bytes(1 << 20)) == "BAD_FORMAT"
        assert code_of(again.start, record + bytes(1 << 20)) == "TRUNCATED"
        again.start(stale)
        assert code_of(again.unseal, B, other) == "COUNTER_ROLLED_BACK"
    assert tee.status()["used_bytes"] == 2 * 512  # the entries alone: all copies were given back


def test_memory_that_is_too_small_is_refused_before_anything_changes(store):
    sealed, record = put(store, A, b"plain")
    window = store.register_memory(4096)
    window.buffer[: len(sealed)] = sealed
    ids = (1, 2, 3, 4)
    short = [
        (StoreCommand.SEAL, _DATA, (*memref(window.id, 0, 9), *memref(window.id, 9, 128), *ids)),
        (
            StoreCommand.UNSEAL,
            _DATA,
            (*memref(window.id, 0, len(sealed)), *memref(window.id, 0, 4), *ids),
        ),
        (StoreCommand.COMMIT, _CHANGE, (*memref(window.id, 0, len(record)), 0, 0, *ids)),
        (StoreCommand.FORGET, _CHANGE, (*memref(window.id, 0, len(record) - 1), 0, 0, *ids)),
    ]
    for command, types, values in short:
        assert code_of(store._invoke, command, types, values) == "SHORT_BUFFER", command
    assert store.counter() == record


def test_a_client_that_kept_too_little_room_for_the_record_asks_again(store):
    for i in range(5):
        sealed = store.seal(bytes([i] * 32), b"")
        store.commit(bytes([i] * 32))
    record = store.counter()
    store._record_bytes = 0
    assert store.counter() == record and sealed


def test_without_memory_an_object_is_refused_and_the_session_goes_on(tee, store):
    models = []
    wide = KvLayout(n_layers=48, n_heads=64, n_kv_heads=8, head_dim=256, rotary_dim=256, v_block=32)
    with pytest.raises(TeeError):
        while True:
            models.append(tee.open_model(wide))
    used = tee.status()["used_bytes"]
    plain = bytes(MAX_OBJECT_BYTES)
    assert code_of(store.seal, A, plain) == "OUT_OF_MEMORY"
    assert tee.status()["used_bytes"] == used
    for model in models:
        tee.close_model(model)
    sealed, _ = put(store, A, plain)
    assert store.unseal(A, sealed) == plain


def test_shared_memory_is_wiped_after_each_call(store):
    plain = b"a text that must not stay" * 4
    sealed = store.seal(A, plain)
    assert not any(store._window.buffer)
    store.commit(A)
    store.unseal(A, sealed)
    assert plain[:16] not in bytes(store._window.buffer)
    assert code_of(store.unseal, A, sealed[:-1]) == "TRUNCATED"
    assert sealed[:16] not in bytes(store._window.buffer)


def test_the_applications_of_a_core_keep_to_their_own_sessions(tee, store):
    model = tee.open_model(SMALL)
    sealed, _ = put(store, A, b"x")
    tee.close_model(model)
    with pytest.raises(TeeError) as refused:  # SEAL is CLOSE_MODEL's number: other parameters
        tee._invoke(StoreCommand.SEAL, _DATA, (0,) * 8)
    assert refused.value.code == ResultCode.BAD_PARAMETERS
    assert store.unseal(A, sealed) == b"x"


def test_a_files_key_goes_into_the_arena_and_nowhere_else(tee, arena):
    store = tee.open_store()
    arena_id = tee.register_fd(arena.fd, arena.size)
    assert code_of(store.file_key, arena_id, 0, bytes(16)) == "BAD_STATE"
    store.start(b"")
    written = bytearray(arena.size)
    for offset in (0, 100, arena.size - 32):
        file_id = os.urandom(16)
        store.file_key(arena_id, offset, file_id)
        written[offset : offset + 32] = keys.sealed_file_key(ROOT_KEY, TA_STORE, file_id)
    assert arena.map[:] == bytes(written)
    assert code_of(store.file_key, arena_id, arena.size - 31, bytes(16)) == "BAD_PARAMETERS"
    shared = tee.register_memory(4096)
    assert code_of(store.file_key, shared.id, 0, bytes(16)) == "ACCESS_DENIED"
    assert not any(shared.buffer)
    regions = tee.status()["regions"]
    tee.release_fd(arena_id)
    assert tee.status()["regions"] == regions - 1
    assert code_of(store.file_key, arena_id, 0, bytes(16)) == "ITEM_NOT_FOUND"
    assert arena.map[:] == bytes(written)


def test_the_state_is_that_of_the_record(store):
    assert store.state() == (0, 1, 0)
    put(store, A, b"x")
    put(store, B, b"x")
    store.forget(A)
    assert store.state() == (3, 1, 1)


def test_an_object_id_of_another_length_is_refused(store):
    with pytest.raises(ValueError, match="object id of 31 bytes"):
        store.seal(bytes(31), b"")


def test_the_guard_has_no_store():
    with TeeClient.launch("guard") as guard:
        assert code_of(guard.open_store) == "ITEM_NOT_FOUND"
