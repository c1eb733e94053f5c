"""Keys that outlive a call stand in the TEE's secret memory, which root cannot read either."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from memory_scan import Needles, flags_of, readable_mappings
from tee_helpers import ROOT_KEY, SMOL

from ptmo_secure import _native
from tee_sim import keys
from tee_sim.client import Algorithm, TeeClient
from tee_sim.device import FUSE_MAGIC
from tee_sim.errors import ResultCode, TeeError
from tee_sim.permutation import layer_permutations
from tee_sim.protocol import TA_ADMIN, TA_GUARD, TA_KV, TA_STORE
from tee_sim.secret_memory import MEMORY_BYTES, SLOT_BYTES, SecretMemory

CHECKOUT = Path(__file__).resolve().parents[2]
needs_root_and_secretmem = pytest.mark.skipif(
    os.geteuid() != 0 or SecretMemory().kind != "memfd_secret",
    reason="needs root, and a kernel with memfd_secret",
)


def found(pid, needles):
    """Names of the needles that stand anywhere in the readable memory of a process."""
    search = Needles(needles)
    return {name for _, _, data in readable_mappings(pid) for name, _ in search.find(data)}


def test_a_kept_key_leaves_its_array_and_a_dropped_one_its_slot():
    memory = SecretMemory()
    key = bytearray(range(1, 33))
    kept = memory.keep(key)
    assert key == bytes(32) and kept.view == bytes(range(1, 33))
    kept.drop()
    kept.drop()
    assert kept.view == bytes(SLOT_BYTES)
    others = [memory.keep(bytearray(os.urandom(32))) for _ in range(MEMORY_BYTES // SLOT_BYTES)]
    assert len({bytes(other.view) for other in others}) == len(others)
    last = bytearray(32 * b"\x5a")
    with pytest.raises(TeeError) as refused:
        memory.keep(last)
    assert refused.value.code == ResultCode.OUT_OF_MEMORY and last == bytes(32)
    others[3].drop()
    assert memory.keep(bytearray(32 * b"\x5a")).view == 32 * b"\x5a"


def test_a_kept_key_prints_and_pickles_to_nothing():
    kept = SecretMemory().keep(bytearray(b"K" * 32))
    assert "4b4b" not in repr(kept) and "KK" not in repr(kept)
    with pytest.raises(TypeError, match="cannot be copied out"):
        pickle.dumps(kept)


def test_without_a_secret_descriptor_the_page_is_locked_and_says_so():
    memory = SecretMemory(allow_memfd_secret=False)
    assert memory.kind in ("mlock", "plain")
    assert memory.keep(bytearray(b"K" * 32)).view == b"K" * 32


@pytest.mark.parametrize("allow", [True, False])
def test_kept_keys_are_locked_and_in_no_core_file_and_no_fork(allow):
    memory = SecretMemory(allow_memfd_secret=allow)
    if memory.kind == "plain":
        pytest.skip("this process may lock no memory")
    assert flags_of(memory._address) >= {"dd", "dc", "lo"}


@needs_root_and_secretmem
def test_root_finds_no_key_of_a_device_in_the_memory_of_its_tee(tmp_path):
    fuses = tmp_path / "fuses"
    with TeeClient.launch(fuses=fuses) as tee:
        assert tee.status()["hardening"]["secret_memory"] is True
        store = tee.open_store()
        store.start(b"")
        sealed = store.seal(b"o" * 32, b"an object's content")
        store.commit(b"o" * 32)
        assert store.unseal(b"o" * 32, sealed) == b"an object's content"
        tee.open_model(SMOL)
        for algorithm in Algorithm:
            tee.evidence(bytes(32), algorithm)
        root = fuses.read_bytes()[len(FUSE_MAGIC) : -4]
        needles = {
            "root": root,
            "fuses": fuses.read_bytes(),
            "SSK": keys.storage_key(root),
            "objects' key": keys.sealed_objects_key(root, TA_STORE),
            "counter's key": keys.counter_key(root),
            "Ed25519 key": keys.identity_seed(root),
            "P-256 key": keys.identity_scalar(root).to_bytes(32, "big"),
            "P-256 key reversed": keys.identity_scalar(root).to_bytes(32, "little"),
        }
        for uuid in (TA_KV, TA_STORE, TA_ADMIN, TA_GUARD):
            needles[f"TSK {uuid[0]:x}"] = keys.application_key(root, uuid)
        assert found(tee.pid, {name: bytes(key) for name, key in needles.items()}) == set()


@needs_root_and_secretmem
def test_root_finds_no_key_of_an_epoch_but_the_permutations_that_it_gave():
    arena = _native.SecretArena(4096)
    with TeeClient.launch(debug_root_key=ROOT_KEY) as tee:
        arena_id = tee.register_fd(arena.fd, arena.size)
        model = tee.open_model(SMOL)
        rows = bytes(SMOL.n_kv_heads * SMOL.head_dim * 4)
        for layer in range(SMOL.n_layers):
            tee.permute_weights(model, layer, "v", rows, 4)
        shared = tee.register_memory(SMOL.n_heads * SMOL.head_dim * 4)
        tee.unpermute(model, 0, shared, 1)
        session, epoch = tee.new_epoch(arena_id, arena.take_slot())
        tee.storage_key(arena_id, arena.take_slot(), bytes(range(32)), bytes(range(16)))
        model_key = keys.epoch_key(ROOT_KEY, tee.model_epoch(model))
        session_key = keys.epoch_key(ROOT_KEY, epoch)
        needles = {
            "model's epoch key": model_key,
            "session's epoch key": session_key,
            "seal key": keys.seal_key(session_key, session),
            "saved session's key": keys.saved_session_key(
                ROOT_KEY, bytes(range(32)), bytes(range(16))
            ),
        }
        for layer in range(SMOL.n_layers):
            for head in range(SMOL.n_kv_heads):
                needles[f"pairs {layer}.{head}"] = keys.pair_permutation_key(model_key, layer, head)
                needles[f"values {layer}.{head}"] = keys.value_permutation_key(
                    model_key, layer, head
                )
        control = layer_permutations(model_key, SMOL, 7)[1].values
        needles = {name: bytes(key) for name, key in needles.items()} | {"table": control}
        assert found(tee.pid, needles) == {"table"}  # docs/tee.md: tables are in the heap


def renamed(needles):
    return {f"result {name}": needle for name, needle in needles.items()}


def pieces(data):
    """Needles all over `data`: what is freed is written over here and there."""
    return {f"at {at}": data[at : at + 32] for at in range(0, len(data) - 31, 256)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads a TEE's heap")
@pytest.mark.parametrize("call", ["UNPERMUTE", "PERMUTE_WEIGHTS", "UNPERMUTE_ROWS", "SEAL"])
def test_what_a_call_carried_is_not_in_the_heap_once_it_was_answered(call):
    given = os.urandom(16 * SMOL.n_heads * SMOL.head_dim * 4)
    with TeeClient.launch() as tee:
        model, store = tee.open_model(SMOL), tee.open_store()
        store.start(b"")
        shared = tee.register_memory(len(given))
        shared.buffer[:] = given
        row_bytes = len(given) // (SMOL.n_kv_heads * SMOL.head_dim)
        result = b""
        if call == "UNPERMUTE":
            tee.unpermute(model, 3, shared, 16)
        elif call == "PERMUTE_WEIGHTS":
            result = tee.permute_weights(model, 3, "k", given, row_bytes)
        elif call == "UNPERMUTE_ROWS":
            tee.reorder_rows(model, 3, "k", shared, 0, row_bytes, to="model")
        else:
            store.seal(b"o" * 32, given)
        needles = pieces(given) | renamed(pieces(result or bytes(shared.buffer)))
        if call != "SEAL" and not result:  # what is still in shared memory is found
            assert found(tee.pid, needles) >= set(renamed(pieces(given)))
        shared.wipe()
        assert found(tee.pid, needles) == set()


CORE_WITH_A_KNOWN_HPKE_KEY = """
import sys
from tee_sim import daemon
from tee_sim.memory import Budget
from tee_sim.secret_memory import SecretMemory
from tee_sim.ta import attest
attest.draw_key = lambda: bytearray(range(8, 72, 2))
planted = bytearray(range(100, 132))
load, _ = daemon._loader("core", "", SecretMemory())
applications = load(Budget(), None)
print(applications[-1]._hpke_public.hex(), flush=True)
sys.stdin.readline()
"""


@needs_root_and_secretmem
def test_root_does_not_find_the_hpke_key_which_lasts_as_long_as_the_process():
    process = subprocess.Popen(
        [sys.executable, "-c", CORE_WITH_A_KNOWN_HPKE_KEY],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    key, planted = bytes(range(8, 72, 2)), bytes(range(100, 132))
    public = X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    assert process.stdout.readline().strip() == public.hex()
    assert found(process.pid, {"HPKE key": key, "planted": planted}) == {"planted"}
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


@needs_root_and_secretmem
def test_the_page_itself_cannot_be_read_through_proc():
    with TeeClient.launch() as tee:
        lines = Path(f"/proc/{tee.pid}/maps").read_text().splitlines()
        (secret,) = (line for line in lines if "secretmem" in line)
        start = int(re.match("[0-9a-f]+", secret)[0], 16)
        with open(f"/proc/{tee.pid}/mem", "rb", 0) as memory:
            memory.seek(start)
            with pytest.raises(OSError):
                memory.read(16)
        links = [os.readlink(link) for link in Path(f"/proc/{tee.pid}/fd").iterdir()]
        assert not any("secretmem" in link for link in links)  # nothing for pidfd_getfd to take
