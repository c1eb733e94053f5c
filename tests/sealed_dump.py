"""TEST-ONLY decryption of sealed KV pages: the positive control of the seal.

AES-128-CTR is its own inverse, so the same function seals plain pages. Counter block, big-endian:
seq u64 | layer u16 | (kind << 14 | kv_head) u16 | block u32 from 0; kind 0 = K row, 1 = V row,
2 = scales (first 8 bytes). Headers and sequence numbers stay as they are.
"""

import struct
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ptmo_secure.engine.dump import HEADER, DeviceDump
from tee_sim import keys

KeyOf = Callable[[int, int], bytes]  # (session, epoch) of a page -> 16 bytes
KIND_K, KIND_V, KIND_SCALES = 0, 1, 2
SCALE_BYTES = 8


def seal_key_of_session(root_key: bytes, epoch: int, handle: int) -> bytes:
    """The key the TEE wrote for `handle`, derived from the debug root key."""
    return keys.seal_key(keys.epoch_key(root_key, epoch), handle)


def crypt_record(key: bytes, seq: int, layer: int, kind: int, head: int, record: bytes) -> bytes:
    """Seal or unseal one record of one token row."""
    counter = struct.pack(">QHHI", seq, layer, kind << 14 | head, 0)
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(record) + cipher.finalize()


def crypt_dump(dump: DeviceDump, key_of: KeyOf, layers: Iterable[int] = (0,)) -> DeviceDump:
    """Seal or unseal the rows in use of some layers; the rest of the dump is copied as it is."""
    lay = dump.layout
    row_bytes = lay.tile_bytes // lay.rows_per_page
    pages = bytearray(dump.pages)
    for page, header in enumerate(dump.headers()):
        key = key_of(int(header["session"]), int(header["epoch"]))
        base = page * lay.page_bytes
        for row in range(int(header["length"])):
            (seq,) = struct.unpack_from("<Q", pages, base + HEADER.itemsize + 8 * row)
            for layer in layers:
                for head in range(lay.n_kv_heads):
                    start = lay.data_offset + (layer * lay.n_kv_heads + head) * lay.head_bytes
                    start += base
                    records = [
                        (KIND_K, start + row * row_bytes, row_bytes),
                        (KIND_V, start + lay.tile_bytes + row * row_bytes, row_bytes),
                    ]
                    if lay.has_scales:
                        at = start + 2 * lay.tile_bytes + row * SCALE_BYTES
                        records.append((KIND_SCALES, at, SCALE_BYTES))
                    for kind, at, size in records:
                        record = bytes(pages[at : at + size])
                        pages[at : at + size] = crypt_record(key, seq, layer, kind, head, record)
    return DeviceDump(pages=bytes(pages), layout=lay)
