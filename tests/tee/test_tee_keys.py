import hashlib
import hmac
import json
from pathlib import Path

import pytest
from tee_helpers import ROOT_KEY

from tee_sim import keys, permutation
from tee_sim.layout import KvLayout
from tee_sim.protocol import TA_KV, TA_STORE

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
GOLDEN = json.loads((VECTORS / "tee_keys.json").read_text())


def hkdf_expand(key, info, length):
    """RFC 5869 section 2.3 from the standard library alone, one block."""
    return hmac.digest(key, info + b"\x01", hashlib.sha256)[:length]


@pytest.mark.parametrize("vector", GOLDEN["key_tree"])
def test_the_key_tree_gives_the_checked_in_keys(vector):
    key = keys.epoch_key(bytes.fromhex(vector["root"]), vector["epoch"])
    assert key.hex() == vector["epoch_key"]
    assert keys.pair_permutation_key(key, 3, 1).hex() == vector["pair_key_layer3_head1"]
    assert keys.value_permutation_key(key, 3, 1).hex() == vector["value_key_layer3_head1"]
    assert keys.seal_key(key, vector["session"]).hex() == vector["seal_key"]
    seeded = keys.epoch_key(bytes.fromhex(vector["root"]), vector["epoch"], bytes(range(16)))
    assert seeded.hex() == vector["boot_epoch_key"]


@pytest.mark.parametrize("vector", GOLDEN["permutations"])
def test_permutations_are_the_checked_in_ones(vector):
    layout = KvLayout(**vector["layout"])
    key = keys.epoch_key(bytes.fromhex(vector["root"]), vector["epoch"])
    heads = permutation.layer_permutations(key, layout, vector["layer"])
    assert [list(head.pairs) for head in heads] == [h["pairs"] for h in vector["heads"]]
    assert [list(head.values) for head in heads] == [h["values"] for h in vector["heads"]]


@pytest.mark.parametrize("vector", GOLDEN["saved_sessions"])
def test_keys_of_saved_sessions_are_the_checked_in_ones(vector):
    given = [bytes.fromhex(vector[name]) for name in ("root", "model_digest", "file_id")]
    assert keys.saved_session_key(*given).hex() == vector["key"]


@pytest.mark.parametrize("digest,file_id", [(bytes(31), bytes(16)), (bytes(33), bytes(15))])
def test_a_digest_or_file_id_of_another_length_is_refused(digest, file_id):
    with pytest.raises(ValueError, match=f"digest of {len(digest)}"):
        keys.saved_session_key(ROOT_KEY, digest, file_id)


@pytest.mark.parametrize("vector", GOLDEN["storage"])
def test_the_keys_of_sealed_storage_are_the_checked_in_ones(vector):
    root = bytes.fromhex(vector["root"])
    assert keys.sealed_objects_key(root, TA_STORE).hex() == vector["objects_key"]
    assert keys.counter_key(root).hex() == vector["counter_key"]
    assert keys.sealed_file_key(root, TA_STORE, bytes(range(16))).hex() == vector["file_key"]
    with pytest.raises(ValueError, match="file id of 15 bytes"):
        keys.sealed_file_key(root, TA_STORE, bytes(15))


def test_the_generator_reproduces_the_checked_in_file(load_generator):
    assert json.loads(json.dumps(load_generator.vectors())) == GOLDEN


def test_the_tree_is_hkdf_as_an_independent_implementation_computes_it():
    ssk = hkdf_expand(
        hmac.digest(b"ptmo-secure/tee/v1", ROOT_KEY, hashlib.sha256), b"ptmo/v1/ssk", 32
    )
    uuid = bytes.fromhex("1f0a6c1e3d5b4c579b1e7a42c0d85e31")
    tsk = hkdf_expand(ssk, b"ptmo/v1/tsk/" + uuid, 32)
    epoch = hkdf_expand(tsk, b"ptmo/v1/epoch/" + (9).to_bytes(8, "big"), 32)
    seal = hkdf_expand(epoch, b"ptmo/v1/seal/" + (4).to_bytes(8, "big"), 16)
    assert keys.epoch_key(ROOT_KEY, 9) == epoch
    assert keys.seal_key(epoch, 4) == seal
    saved = hkdf_expand(tsk, b"ptmo/v1/saved-session/" + bytes(range(48)), 32)
    assert keys.saved_session_key(ROOT_KEY, bytes(range(32)), bytes(range(32, 48))) == saved


def test_no_two_purposes_share_a_key():
    drawn = [keys.storage_key(ROOT_KEY), keys.application_key(ROOT_KEY, (1, 2))]
    for digest in (bytes(32), bytes([1] * 32)):
        drawn += [keys.saved_session_key(ROOT_KEY, digest, bytes([i] * 16)) for i in range(3)]
    drawn += [keys.sealed_objects_key(ROOT_KEY, uuid) for uuid in (TA_KV, TA_STORE)]
    drawn += [keys.sealed_file_key(ROOT_KEY, TA_STORE, bytes([i] * 16)) for i in range(3)]
    drawn.append(keys.counter_key(ROOT_KEY))
    for epoch in range(3):
        key = keys.epoch_key(ROOT_KEY, epoch)
        drawn += [key, *(keys.epoch_key(ROOT_KEY, epoch, bytes([i] * 16)) for i in range(2))]
        for i in range(3):
            drawn.append(keys.seal_key(key, i))
            for j in range(3):
                drawn += [keys.pair_permutation_key(key, i, j)]
                drawn += [keys.value_permutation_key(key, i, j)]
    prefixes = {bytes(k[:16]) for k in drawn}
    assert len(prefixes) == len(drawn)


def test_one_flipped_root_bit_changes_every_key():
    flipped = bytes([ROOT_KEY[0] ^ 1]) + ROOT_KEY[1:]
    assert keys.epoch_key(ROOT_KEY, 1) != keys.epoch_key(flipped, 1)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_root_key_of_the_wrong_length_is_refused(length):
    with pytest.raises(ValueError, match="root key"):
        keys.epoch_key(bytes(length), 1)


def test_a_boot_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="boot seed of 15 bytes"):
        keys.epoch_key(ROOT_KEY, 1, bytes(15))
