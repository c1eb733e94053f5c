"""Writes tee_keys.json: the key tree and permutations of fixed root keys.

Run from the checkout's root: ``python tests/vectors/generate_tee.py``. The file changes only when
the derivation changes, which makes every sealed page and permuted weight of earlier runs useless:
a change needs a new version in the HKDF labels.
"""

import json
from dataclasses import asdict
from pathlib import Path

from tee_sim import keys, permutation
from tee_sim.layout import KvLayout

TARGET = Path(__file__).with_name("tee_keys.json")
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
    return {"key_tree": tree, "permutations": permutations, "saved_sessions": saved}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(vectors()) + "\n")
