"""The wire format between client and TEE: one fixed binary frame per SEQPACKET packet.

Every packet, either way, is exactly `FRAME_BYTES` long (well under the 4 KiB limit):

    magic u32 | version u16 | kind u16 | session u32 | command u32 | param_types u16 | origin u16
    | seq u64 | 4 x (a u64, b u64) | crc32 u32                                  little-endian

A reply repeats the request's `kind` with the top bit set and its `seq`; `command` then holds the
result code and `origin` the layer it came from (0 in requests). Parameters have GlobalPlatform's
shape: four, each with a 4-bit type in `param_types`. A value is (a, b). A memory reference is
a = memory id << 32 | size in bytes, b = offset in bytes. Text, vectors and weights never travel in
a frame: they cross in registered memory. The CRC catches mistakes, not attackers.
"""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

from tee_sim.errors import Origin, ResultCode, TeeError

MAGIC = 0x45544D50  # "PMTE"
VERSION = 1
MAX_PACKET_BYTES = 4096
MAX_PACKET_FDS = 8
REPLY_BIT = 0x8000

_BODY = struct.Struct("<IHHIIHHQ8Q")
_CRC = struct.Struct("<I")
FRAME_BYTES = _BODY.size + _CRC.size
NO_VALUES = (0,) * 8

Values = tuple[int, ...]  # eight u64: a0, b0, a1, b1, a2, b2, a3, b3


class Kind(IntEnum):
    """What a request asks of the TEE itself."""

    INITIALIZE = 1
    OPEN_SESSION = 2
    CLOSE_SESSION = 3
    INVOKE = 4
    REGISTER_MEMORY = 5
    RELEASE_MEMORY = 6
    STATUS = 7


class ParamType(IntEnum):
    """GlobalPlatform parameter types; memory is always a region registered before."""

    NONE = 0x0
    VALUE_INPUT = 0x1
    VALUE_OUTPUT = 0x2
    VALUE_INOUT = 0x3
    MEMREF_INPUT = 0xD
    MEMREF_OUTPUT = 0xE
    MEMREF_INOUT = 0xF


class MemoryKind(IntEnum):
    """What a registered descriptor may be used for."""

    SHARED = 1  # text, vectors, weights: read and written by commands
    ARENA = 2  # the engine's secret arena: the TEE only ever writes keys into it


class ArenaKind(IntEnum):
    """What a secret arena is made of, as the TEE sees it; a higher number protects less."""

    NONE = 0
    MEMFD_SECRET = 1
    MEMFD = 2


class KvCommand(IntEnum):
    """Commands of the `kv` trusted application."""

    OPEN_MODEL = 1
    CLOSE_MODEL = 2
    PERMUTE_WEIGHTS = 3
    UNPERMUTE = 4
    NEW_EPOCH = 5
    DROP_EPOCH = 6
    STORAGE_KEY = 7
    UNPERMUTE_ROWS = 8
    MOVE_ROWS = 9


class StoreCommand(IntEnum):
    """Commands of the `store` trusted application."""

    START = 1
    SEAL = 2
    COMMIT = 3
    UNSEAL = 4
    FORGET = 5
    COUNTER = 6
    FILE_KEY = 7


class GuardCommand(IntEnum):
    """Commands of the `guard` trusted application."""

    SCAN = 1
    OPEN_VAULT = 2
    MASK = 3
    UNMASK = 4
    FORGET = 5
    SAVE_VAULT = 6
    LOAD_VAULT = 7
    CLOSE_VAULT = 8
    CHECK = 9


class AdminCommand(IntEnum):
    """Commands of the `admin` trusted application."""

    STATS = 1
    AUDIT_TAIL = 2
    ROTATE = 3


class AttestCommand(IntEnum):
    """Commands of the `attest` trusted application."""

    GET_EVIDENCE = 1


class Algorithm(IntEnum):
    """Signature algorithms of evidence, by their COSE numbers (RFC 9053); negated in a frame."""

    ES256 = -7  # ECDSA on P-256 with SHA-256
    EDDSA = -8  # Ed25519


class WeightRole(IntEnum):
    """Which rows PERMUTE_WEIGHTS gathers, and by which permutation."""

    Q = 0
    K = 1
    V = 2
    O = 3  # noqa: E741 - the field's own name for the output projection
    FREQ = 4


# Trusted applications are named by UUID (random, version 4), as (high, low) u64.
TA_KV = (0x1F0A6C1E3D5B4C57, 0x9B1E7A42C0D85E31)
TA_GUARD = (0x7C42D9A0E1684B2F, 0xA6530F8E94B7D21C)
TA_STORE = (0xE25B0D7491A64F38, 0x8D17C6F2095B3AE4)
TA_ADMIN = (0x4E88CB4881184FE1, 0x888E07BAA3D0A4AF)
TA_ATTEST = (0x9B3F51D0C7E24A86, 0xB5A82E6D1CF40793)
APPLICATIONS = {TA_KV: "kv", TA_GUARD: "guard", TA_STORE: "store", TA_ADMIN: "admin"}
APPLICATIONS[TA_ATTEST] = "attest"

# Bits of the fourth status value: which start-up protections took effect.
HARDENING_BITS = (
    "dumpable_off",
    "no_core_dumps",
    "no_new_privs",
    "parent_watch",
    "no_network",
    "own_user",
    "system_calls",
    "secret_memory",
)
STATUS_DEBUG_BIT = 1


class Frame(NamedTuple):
    """One decoded packet."""

    kind: int
    session: int
    command: int
    param_types: int
    origin: int
    seq: int
    values: Values


def role_code(name: str) -> WeightRole:
    """Return the role of a weight matrix by its lower-case name, "q" to "freq"."""
    try:
        return WeightRole[name.upper()]
    except KeyError:
        raise TeeError(
            ResultCode.BAD_PARAMETERS, Origin.API, f"unknown weight role {name!r}"
        ) from None


def param_types(*types: ParamType) -> int:
    """Pack up to four parameter types, first in the lowest four bits."""
    packed = 0
    for index, param_type in enumerate(types):
        packed |= int(param_type) << (4 * index)
    return packed


# In the nonce, out the token (memory); in (COSE algorithm negated, 0), out (bytes, 0).
GET_EVIDENCE_TYPES = param_types(
    ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT, ParamType.VALUE_INOUT
)


def memref(memory_id: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """Encode a reference to `size_bytes` bytes at `offset` of a registered region."""
    return (memory_id << 32 | size_bytes, offset)


def split_memref(a: int, b: int) -> tuple[int, int, int]:
    """Decode a memory reference into (memory id, offset, size in bytes)."""
    return (a >> 32, b, a & 0xFFFFFFFF)


def referenced_bytes(types: int, values: Values) -> tuple[int, int]:
    """Add up the bytes that memory references name: (for the TEE to read, for it to write).

    Args:
        types: packed parameter types; of a memory type, bit 0 is "read" and bit 1 "written".
        values: the eight values; nothing about them is checked here.
    """
    bytes_in = bytes_out = index = 0
    while types & 0xCCCC:  # memory is left
        if types & 0xC:
            size = values[index] & 0xFFFFFFFF
            bytes_in += size * (types & 1)
            bytes_out += size * (types >> 1 & 1)
        types >>= 4
        index += 2
    return bytes_in, bytes_out


def encode(
    kind: int, session: int, command: int, types: int, origin: int, seq: int, values: Values
) -> bytes:
    """Build one packet.

    Raises:
        struct.error: if a field does not fit its width.
    """
    body = _BODY.pack(MAGIC, VERSION, kind, session, command, types, origin, seq, *values)
    return body + _CRC.pack(zlib.crc32(body))


def decode(packet: bytes) -> Frame:
    """Parse one packet, refusing anything that is not exactly a frame of this version.

    Security: the length is fixed and checked first; no field is used as a length or an index here.

    Raises:
        TeeError: BAD_FORMAT on a wrong length, magic, version or checksum.
    """
    if len(packet) != FRAME_BYTES:
        raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "packet of the wrong length")
    fields = _BODY.unpack_from(packet)
    if fields[0] != MAGIC or fields[1] != VERSION:
        raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "packet of an unknown version")
    if _CRC.unpack_from(packet, _BODY.size)[0] != zlib.crc32(packet[: _BODY.size]):
        raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "packet with a wrong checksum")
    return Frame._make((*fields[2:8], fields[8:]))
