"""The audit logs that a device's starts left, checked against the keys it is enrolled under.

Security: the signature shows that the device's TEE made these records, in this order; the chain,
that none was changed or left out before the last. A start without a log was killed, or its log was
removed: the two look alike. Logs removed from the end are not missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptmo_secure.attestation import ENROLMENT, read_enrolment
from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.sealed.kept_log import LOG_NONCE, LOG_SUFFIX, LOGS, TOKEN_BYTES
from tee_sim.client import AuditRecord, TeeError, audit_names
from tee_sim.verify import Evidence, EvidenceError, Verifier, attested_tail, unverified

_MAX_LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StartLog:
    """What one start of a device was asked.

    Args:
        evidence: that attests it.
        records: its newest, oldest first.
        dropped: records before those, which the head stands for too.
    """

    evidence: Evidence
    records: Sequence[AuditRecord]
    dropped: int

    @property
    def calls(self) -> int:
        """Packets answered, of the records that are there."""
        return sum(record.calls for record in self.records)

    @property
    def refused(self) -> int:
        """Of these, those that were refused."""
        return sum(record.calls for record in self.records if record.code)

    def as_json(self) -> dict[str, object]:
        """The log as a JSON object."""
        return {
            "boot": self.evidence.boot_count,
            "counter": self.evidence.counter,
            "measurement": self.evidence.measurement.hex(),
            "head": self.evidence.audit_head.hex(),
            "calls": self.calls,
            "refused": self.refused,
            "dropped_records": self.dropped,
            "records": [record_as_json(record) for record in self.records],
        }


def record_as_json(record: AuditRecord) -> dict[str, object]:
    """A record as a JSON object, its numbers with their names."""
    request, result = audit_names(record)
    return {
        "number": record.number,
        "at_ms": record.at_ms,
        "session": record.session,
        "request": request,
        "result": result,
        "calls": record.calls,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }


def read_logs(folder: Path, enrolled: Path | None = None) -> list[StartLog]:
    """Return the logs that a device's starts left, in their order, each checked.

    Args:
        folder: the device's state.
        enrolled: its enrolment record; None: the one in the folder.

    Raises:
        InputError: no log is there, or no enrolment record.
        SecurityError: a log was changed, is another device's or another start's, or tells of a
            device that was rolled back.
        EngineError: a log cannot be read.
    """
    paths = sorted((folder / LOGS).glob(f"*{LOG_SUFFIX}"))
    if not paths:
        raise InputError(f"{folder}: no start of a device left a log there")
    identity = read_enrolment(enrolled or folder / ENROLMENT)
    seen: dict[bytes, Evidence] = {}
    return [_read(path, identity, seen) for path in paths]


def missing_starts(logs: Sequence[StartLog]) -> list[int]:
    """Return the starts between the first and the last of these that left no log."""
    boots = {log.evidence.boot_count for log in logs}
    return [boot for boot in range(min(boots), max(boots)) if boot not in boots]


def _read(path: Path, identity: bytes, seen: dict[bytes, Evidence]) -> StartLog:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LOG_BYTES)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    size = int.from_bytes(data[: TOKEN_BYTES.size], "little")
    token, rest = data[TOKEN_BYTES.size :][:size], data[TOKEN_BYTES.size + size :]
    try:
        # Software of any day is accepted, and told: a log outlives updates.
        verifier = Verifier([identity], [unverified(token).measurement])
        verifier.seen = seen
        evidence = verifier.verify(token, LOG_NONCE)
        tail = attested_tail(rest, evidence)
    except EvidenceError as error:
        raise SecurityError(f"{path}: evidence refused: {error}") from None
    except TeeError as error:
        raise SecurityError(f"{path}: {error}") from None
    if not path.name.startswith(f"{evidence.boot_count:010d}-"):
        raise SecurityError(f"{path}: the log of start {evidence.boot_count}")
    return StartLog(evidence, tail.records, tail.length - len(tail.records))
