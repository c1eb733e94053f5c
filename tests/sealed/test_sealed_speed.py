"""What large files cost, by who does the bulk of the work: `pytest -m slow -s` prints it."""

import io
import os
import time

import pytest

from ptmo_secure.sealed.chunks import CHUNK_BYTES, SealedFile, SealedKind, seal
from ptmo_secure.sealed.store import SealedStore

MIB = 100


@pytest.mark.slow
def test_native_code_seals_and_opens_faster_than_the_tee_would(tmp_path):
    data = os.urandom(CHUNK_BYTES)
    path, object_id = tmp_path / "file.sealed", bytes(32)
    with SealedStore.open(tmp_path / "state") as store:
        calls = store.tee.open_store()

        def seconds(work):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        sealed = calls.seal(object_id, data)
        calls.commit(object_id)
        unseal = seconds(lambda: [calls.unseal(object_id, sealed) for _ in range(MIB)])
        took = {
            "TEE seals": seconds(lambda: [calls.seal(object_id, data) for _ in range(MIB)]),
            "TEE opens": unseal,
            "native code seals, to a file": seconds(
                lambda: seal(
                    store, SealedKind.MODEL, [io.BytesIO(data * MIB)], MIB * CHUNK_BYTES, path
                )
            ),
            "native code opens, from a file": seconds(
                lambda: [None for _ in SealedFile(path, store).chunks()]
            ),
        }
    for name, value in took.items():
        print(f"{name}: {MIB / value:.0f} MiB/s")
    assert took["native code opens, from a file"] < took["TEE opens"]
