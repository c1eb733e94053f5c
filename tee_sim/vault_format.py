"""How a vault at rest lies in its bytes, as both worlds read it.

Integers are little-endian. A header of 92 bytes in the clear, the ciphertext, and a tag of 16
bytes; the header is associated data:

    magic "PTMOVALT" | version u16 = 1 | zero u16 | seconds to live u32 | user 16 | vault u64
    | generation u64 | saved, in seconds since 1970 u64 | id of the machine's start 16
    | saved, in seconds since that start u64 | nonce 12

The plaintext: four counts (u32), the session's key 32, its Bloom filter 16,384, and rows (a u32,
b u32, c u32, bytes u32, the bytes): of kinds (kind, last number), values (kind, number, spelling;
the value), surrogates (which value, word + 1; text) and words of surrogate names (hash 16, word).

Nothing of the header may be believed before the guard has authenticated it.
"""

import struct
from typing import NamedTuple

VAULT_KIND = b"PTMOVALT", 1, 0  # magic, version, zero
VAULT_TAG_BYTES = 16
VAULT_HEADER = struct.Struct("<8sHHI16sQQQ16sQ12s")


class VaultHeader(NamedTuple):
    """The fields of a vault's header."""

    magic: bytes
    version: int
    zero: int
    ttl_s: int
    user: bytes
    number: int
    generation: int  # counts how often the vault was saved
    saved_s: int
    boot_id: bytes
    saved_since_boot_s: int
    nonce: bytes


def vault_header(blob: bytes | bytearray | memoryview) -> VaultHeader | None:
    """Return the header of a vault at rest, or None when there is no whole one of version 1."""
    if len(blob) < VAULT_HEADER.size + VAULT_TAG_BYTES:
        return None
    header = VaultHeader._make(VAULT_HEADER.unpack_from(blob))
    known = header[:3] == VAULT_KIND
    return header if known else None
