"""The audit log's records and their chain, as TEE and reader agree on them.

    digest(0) = SHA-256("ptmo-secure/tee/audit/v1")
    digest(i + 1) = SHA-256(digest(i) | record i)

A record stands for a run of like calls: the same application, session, command and outcome, one
after the other. So a decoding step's thirty calls, and a million of them, are one record, and do
not push what matters out of a log of bounded length.

The chain makes a log's past fixed by its last digest, its head. It is as good as the way the head
came by: it tells a change behind the TEE's back, not a TEE that lies.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tee_sim.errors import Origin, ResultCode, TeeError

GENESIS = hashlib.sha256(b"ptmo-secure/tee/audit/v1").digest()
DIGEST_BYTES = len(GENESIS)
MAX_RECORDS = 1024  # kept by the TEE; with their digests about 0.3 MiB of Python objects
_RECORD = struct.Struct("<7Q4I2H")
RECORD_BYTES = _RECORD.size


class AuditRecord(NamedTuple):
    """One run of like calls.

    Security: who called what, how often, with which outcome and sizes; never what.
    """

    number: int  # in the log, from 0
    application: int  # high half of its UUID; 0 for a request to the TEE itself
    first_seq: int  # the frames' sequence numbers; 0 for a packet that was no frame
    last_seq: int
    at_ms: int  # when the run began, since the start of the log
    bytes_in: int  # named by memory references, also of refused calls
    bytes_out: int
    calls: int
    session: int
    command: int
    code: int  # result code
    kind: int  # of request; 0 for a packet that was no frame
    origin: int  # layer that refused; 0 for success

    def pack(self) -> bytes:
        """The record as the chain takes it: `RECORD_BYTES`, little-endian."""
        return _RECORD.pack(*self)


def chained(digest: bytes, record: bytes) -> bytes:
    """Return the digest after `record`, from the one before it."""
    return hashlib.sha256(digest + record).digest()


@dataclass(frozen=True, slots=True)
class AuditTail:
    """The newest records of a log, checked.

    Attributes:
        records: oldest first.
        length: records the log has had in all.
        head: digest after the last of them; keep it to check a later tail against.
        before: digest before the first of them.
    """

    records: tuple[AuditRecord, ...]
    length: int
    head: bytes
    before: bytes = GENESIS


def read_tail(data: bytes, length: int, head: bytes, known: AuditTail | None = None) -> AuditTail:
    """Check a tail against the log's head, and against what was known of the log before.

    Args:
        data: the digest before the first record, then the records.
        length: records the log has had in all.
        head: its last digest, 32 bytes, from the TEE's reply.
        known: an earlier tail of the same log.

    Returns:
        The tail.

    Raises:
        TeeError: SECURITY, naming the record: the records were changed, reordered or cut, or the
            log is not the one known. BAD_PARAMETERS: the tail does not reach back to `known`.
    """
    if len(data) < DIGEST_BYTES or (len(data) - DIGEST_BYTES) % RECORD_BYTES:
        raise _broken(f"a tail of {len(data)} bytes")
    digest = data[:DIGEST_BYTES]
    records = [AuditRecord(*fields) for fields in _RECORD.iter_unpack(data[DIGEST_BYTES:])]
    first = length - len(records)
    if first < 0 or (first == 0 and digest != GENESIS):
        raise _broken("the log does not start where a log starts")
    digests = [digest]
    for number, record in enumerate(records, first):
        if record.number != number:
            raise _broken(f"record {record.number} stands in the place of record {number}")
        digests.append(chained(digests[-1], record.pack()))
    if digests[-1] != head:
        raise _broken(f"records {first} to {length - 1} do not lead to the log's head")
    if known is not None:
        _check_known(digests, first, length, known)
    return AuditTail(tuple(records), length, head, digest)


def _check_known(digests: Sequence[bytes], first: int, length: int, known: AuditTail) -> None:
    """Refuse a log in which what was known has another past, or is not there any more."""
    if length < known.length:
        raise _broken(f"the log has {length} records, and had {known.length}")
    if known.length < first:
        raise TeeError(
            ResultCode.BAD_PARAMETERS,
            Origin.API,
            f"the tail starts at record {first}, what is known ends at {known.length}",
        )
    if digests[known.length - first] != known.head:
        raise _broken(f"the first {known.length} records are not those known")


def _broken(what: str) -> TeeError:
    return TeeError(ResultCode.SECURITY, Origin.API, f"audit log: {what}")
