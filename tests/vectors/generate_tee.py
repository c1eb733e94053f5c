"""Writes tee_keys.json, the key tree and permutations of fixed root keys, tee_sealed.json, objects
and counter records sealed under them, and tee_tokens.json, evidence signed by their identities.

Run from the checkout's root: ``python tests/vectors/generate_tee.py``. The first changes only when
the derivation changes, which makes every sealed page and permuted weight of earlier runs useless:
a change needs a new version in the HKDF labels.
"""

import json
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tee_sim import keys, permutation
from tee_sim.cose import identity_of, sign1, ueid_of
from tee_sim.device import Device
from tee_sim.evidence import Evidence
from tee_sim.layout import KvLayout
from tee_sim.memory import Budget
from tee_sim.protocol import HARDENING_BITS, TA_KV, TA_STORE
from tee_sim.storage import SealedStorage

KEYS = Path(__file__).with_name("tee_keys.json")
SEALED = Path(__file__).with_name("tee_sealed.json")
TOKENS = Path(__file__).with_name("tee_tokens.json")
ROOTS = (bytes(32), bytes(range(32)), bytes([0xFF]) * 32)
LAYOUTS = (
    KvLayout(30, 9, 3, 64, 64, 32),
    KvLayout(2, 4, 2, 8, 8, 8),
    KvLayout(1, 2, 2, 256, 256, 256),
)


def vectors() -> dict[str, object]:
    """Derive every vector."""
    tree = []
    for root in ROOTS:
        for epoch, session in ((1, 1), (2, 7), (2**32, 2**40)):
            key = keys.epoch_key(root, epoch)
            tree.append(
                {
                    "root": root.hex(),
                    "epoch": epoch,
                    "session": session,
                    "epoch_key": key.hex(),
                    "pair_key_layer3_head1": keys.pair_permutation_key(key, 3, 1).hex(),
                    "value_key_layer3_head1": keys.value_permutation_key(key, 3, 1).hex(),
                    "seal_key": keys.seal_key(key, session).hex(),
                    "boot_epoch_key": keys.epoch_key(root, epoch, bytes(range(16))).hex(),
                }
            )
    permutations = []
    for layout in LAYOUTS:
        layer = layout.n_layers - 1
        heads = permutation.layer_permutations(keys.epoch_key(ROOTS[1], 5), layout, layer)
        permutations.append(
            {
                "root": ROOTS[1].hex(),
                "epoch": 5,
                "layout": asdict(layout),
                "layer": layer,
                "heads": [
                    {"pairs": list(head.pairs), "values": list(head.values)} for head in heads
                ],
            }
        )
    saved = [
        {
            "root": root.hex(),
            "model_digest": digest.hex(),
            "file_id": file_id.hex(),
            "key": keys.saved_session_key(root, digest, file_id).hex(),
        }
        for root in ROOTS
        for digest, file_id in ((bytes(32), bytes(16)), (bytes(range(32)), bytes(range(16))))
    ]
    storage = [
        {
            "root": root.hex(),
            "file_key": keys.sealed_file_key(root, TA_STORE, bytes(range(16))).hex(),
            "objects_key": keys.sealed_objects_key(root, TA_STORE).hex(),
            "counter_key": keys.counter_key(root).hex(),
        }
        for root in ROOTS
    ]
    return {
        "key_tree": tree,
        "permutations": permutations,
        "saved_sessions": saved,
        "storage": storage,
    }


def sealed_vectors() -> list[dict[str, object]]:
    """Seal two objects of two applications each, and take the counter's record after each."""
    made = []
    for root in ROOTS:
        device = Device(Budget(), bytearray(root))
        with mock.patch("os.urandom", lambda n: bytes(range(n))):
            device.counter.start(b"")
            for uuid in (TA_STORE, TA_KV):
                for object_id, plain in ((bytes(32), b""), (bytes(range(32)), b"sealed " * 7)):
                    storage = SealedStorage(device, uuid)
                    sealed = b"".join(storage.seal(object_id, plain))
                    before = device.counter.record()
                    storage.commit(object_id)
                    made.append(
                        {
                            "root": root.hex(),
                            "application": uuid,
                            "object_id": object_id.hex(),
                            "plain": plain.hex(),
                            "sealed": sealed.hex(),
                            "record_before": before.hex(),
                            "record_after": device.counter.record().hex(),
                        }
                    )
    return made


def identity(root: bytes) -> tuple[Ed25519PrivateKey, EllipticCurvePrivateKey]:
    """The private identity keys of a device."""
    seed, scalar = keys.identity_seed(root), keys.identity_scalar(root)
    return Ed25519PrivateKey.from_private_bytes(seed), derive_private_key(scalar, SECP256R1())


def golden_evidence(root: bytes, nonce: bytes, large: bool) -> Evidence:
    """Evidence of a device in an ordinary state, or with every number as large as it may be."""
    public = identity_of(*identity(root))
    most = 2**64 - 1
    return Evidence(
        nonce=nonce,
        ueid=ueid_of(public),
        identity=public,
        debug_state=2,
        boot_count=most if large else 3,
        measurement=bytes(range(32)),
        hpke_key=bytes(range(32, 64)),
        arena=2 if large else 1,
        epoch=most if large else 3 << 32 | 7,
        counter=most if large else 12,
        hardening=most if large else (1 << len(HARDENING_BITS)) - 1,
        audit_length=most if large else 40,
        audit_head=bytes(range(64, 96)),
    )


def token_vectors() -> list[dict[str, object]]:
    """Sign evidence with both keys of every root; those of P-256 are others every time."""
    made = []
    for root, nonce, large in zip(ROOTS, (8, 32, 64), (False, False, True), strict=True):
        evidence = golden_evidence(root, bytes(range(nonce)), large)
        for name, key in zip(("EDDSA", "ES256"), identity(root), strict=True):
            made.append(
                {
                    "root": root.hex(),
                    "identity_seed": keys.identity_seed(root).hex(),
                    "identity_scalar": keys.identity_scalar(root).to_bytes(32, "big").hex(),
                    "identity": evidence.identity.hex(),
                    "algorithm": name,
                    "nonce": evidence.nonce.hex(),
                    "token": sign1(key, evidence.ueid, evidence.encode()).hex(),
                }
            )
    return made


if __name__ == "__main__":
    KEYS.write_text(json.dumps(vectors()) + "\n")
    SEALED.write_text(json.dumps(sealed_vectors()) + "\n")
    TOKENS.write_text(json.dumps(token_vectors()) + "\n")
