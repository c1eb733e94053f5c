"""How a sealed object and the counter record lie in their files, as both worlds read them.

Integers are little-endian. A sealed object is a header of 104 bytes in the clear, the ciphertext,
and a tag of 16 bytes; the header is associated data:

    magic "PTMOSEAL" | version u16 = 1 | zero u16 | application 16 | object id 32 | lineage 16
    | counter u64 | plaintext bytes u64 | nonce 12

The counter record is a header of 48 bytes, an entry of 72 bytes for each object, in order, and an
HMAC-SHA-256 of 32 bytes over all before it:

    magic "PTMOCNTR" | version u16 = 1 | zero u16 | entries u32 | lineage 16 | counter u64
    | starts u64
    application 16 | object id 32 | counter u64 | tag 16                              (an entry)

Nothing of a file may be believed before the TEE has authenticated it.
"""

import struct
from typing import NamedTuple

OBJECT_MAGIC = b"PTMOSEAL"
RECORD_MAGIC = b"PTMOCNTR"
FORMAT_VERSION = 1
OBJECT_ID_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
MAC_BYTES = 32
MAX_OBJECT_BYTES = 8 << 20
MAX_OBJECTS = 1024

OBJECT_HEADER = struct.Struct("<8sHH16s32s16sQQ12s")
RECORD_HEADER = struct.Struct("<8sHHI16sQQ")
RECORD_ENTRY = struct.Struct("<48sQ16s")
SEALED_OVERHEAD_BYTES = OBJECT_HEADER.size + TAG_BYTES
MAX_RECORD_BYTES = RECORD_HEADER.size + MAX_OBJECTS * RECORD_ENTRY.size + MAC_BYTES


class CounterState(NamedTuple):
    """What a counter record says of its device."""

    value: int
    boots: int  # starts, this one included
    objects: int


class ObjectHeader(NamedTuple):
    """The fields of a sealed object's header."""

    magic: bytes
    version: int
    zero: int
    application: bytes  # UUID, big-endian
    object_id: bytes
    lineage: bytes  # which history of the counter it belongs to, drawn with the first record
    counter: int  # the value the counter takes when the object is committed
    plain_bytes: int
    nonce: bytes

    @property
    def place(self) -> bytes:
        """The object's key in the counter's record: application and id."""
        return self.application + self.object_id


def object_header(sealed: bytes | bytearray | memoryview) -> ObjectHeader | None:
    """Return the header of a sealed object, or None when there is no whole header of version 1."""
    if len(sealed) < OBJECT_HEADER.size:
        return None
    header = ObjectHeader._make(OBJECT_HEADER.unpack_from(sealed))
    known = header.magic == OBJECT_MAGIC and header.version == FORMAT_VERSION
    return header if known else None


def record_bytes(n_objects: int) -> int:
    """Return the size of a counter record that names `n_objects` objects."""
    return RECORD_HEADER.size + n_objects * RECORD_ENTRY.size + MAC_BYTES
