"""Writes tee_keys.json, the key tree and permutations of fixed root keys, and tee_sealed.json:
objects and counter records sealed under them.

Run from the checkout's root: ``python tests/vectors/generate_tee.py``. The file changes only when
the derivation changes, which makes every sealed page and permuted weight of earlier runs useless:
a change needs a new version in the HKDF labels.
"""

import json
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from tee_sim import keys, permutation
from tee_sim.device import Device
from tee_sim.layout import KvLayout
from tee_sim.memory import Budget
from tee_sim.protocol import TA_KV, TA_STORE
from tee_sim.storage import SealedStorage

KEYS = Path(__file__).with_name("tee_keys.json")
SEALED = Path(__file__).with_name("tee_sealed.json")
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


if __name__ == "__main__":
    KEYS.write_text(json.dumps(vectors()) + "\n")
    SEALED.write_text(json.dumps(sealed_vectors()) + "\n")
