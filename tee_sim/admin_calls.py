"""The client's calls on the `admin` application: counters, and the audit log, checked."""

from dataclasses import dataclass
from enum import IntEnum

from tee_sim.audit_chain import (
    DIGEST_BYTES,
    MAX_RECORDS,
    RECORD_BYTES,
    AuditRecord,
    AuditTail,
    read_tail,
)
from tee_sim.caller import Caller
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.protocol import (
    APPLICATIONS,
    NO_VALUES,
    TA_ADMIN,
    AdminCommand,
    AttestCommand,
    GuardCommand,
    Kind,
    KvCommand,
    ParamType,
    StoreCommand,
    memref,
    param_types,
)

_OUT = ParamType.VALUE_OUTPUT
_STATS = param_types(_OUT, _OUT, _OUT, _OUT)
_ROTATE = param_types(ParamType.VALUE_INPUT, _OUT)
_AUDIT_TAIL = param_types(ParamType.MEMREF_OUTPUT, ParamType.VALUE_INOUT, _OUT, _OUT)
_COMMANDS: dict[str, type[IntEnum]] = {
    "kv": KvCommand,
    "guard": GuardCommand,
    "store": StoreCommand,
    "admin": AdminCommand,
    "attest": AttestCommand,
}
_NAMES = {uuid[0]: name for uuid, name in APPLICATIONS.items()}


def audit_names(record: AuditRecord) -> tuple[str, str]:
    """Return what a record's calls were, and what came of them: ("kv.NEW_EPOCH", "SUCCESS").

    A number that has no name stands for itself.
    """
    kind, command = _name(Kind, record.kind), ""
    if record.kind == Kind.INVOKE:
        application = _NAMES.get(record.application, f"{record.application:x}")
        command = f"{application}.{_name(_COMMANDS.get(application, Kind), record.command)}"
    return command or kind, _name(ResultCode, record.code)


def _name(enumeration: type[IntEnum], number: int) -> str:
    return enumeration(number).name if number in set(enumeration) else str(number)


@dataclass(frozen=True, slots=True)
class TeeStats:
    """The TEE's own counts, before the call that asked for them."""

    crossings: int  # commands answered, refused ones too
    refused: int  # requests of any kind that were
    bytes_in: int  # in registered memory, of commands that succeeded
    bytes_out: int
    audit_records: int  # that the log still keeps
    uptime_ms: int
    seal_keys: int  # sessions that have one
    seal_keys_due: int  # of these, drawn before `rotate_keys` was last called


class AdminCalls(Caller):
    """What `TeeClient` offers of the core's `admin` application."""

    def stats(self) -> TeeStats:
        """Return the TEE's own counts (role "core")."""
        values = self._invoke(AdminCommand.STATS, _STATS, NO_VALUES, self._session_with(TA_ADMIN))
        return TeeStats(*values)

    def rotate_keys(self) -> None:
        """Have every seal key that there is count as due, until `new_epoch` draws the next."""
        self._rotate(0, 0)

    def _rotate(self, model: int, stage: int) -> int:
        values = (model, stage, *NO_VALUES[2:])
        return self._invoke(AdminCommand.ROTATE, _ROTATE, values, self._session_with(TA_ADMIN))[2]

    def audit_tail(self, most: int = 64, known: AuditTail | None = None) -> AuditTail:
        """Return the audit log's newest records, checked (role "core").

        Security: the records cross in memory that others of the host could change; the head, which
        fixes them, comes in the reply's own frame.

        Args:
            most: records at most, 0 to 1,024; 0 asks for length and head alone.
            known: an earlier tail: this one must continue it.

        Raises:
            TeeError: SECURITY, if the records do not lead to the head or do not continue `known`.
        """
        if not 0 <= most <= MAX_RECORDS:
            raise TeeError(
                ResultCode.BAD_PARAMETERS, Origin.API, f"most={most} is outside 0..{MAX_RECORDS}"
            )
        room = DIGEST_BYTES + most * RECORD_BYTES
        session = self._session_with(TA_ADMIN)
        with self._channel.lock:
            window = self._shared_window(room)
            values = self._invoke(
                AdminCommand.AUDIT_TAIL,
                _AUDIT_TAIL,
                (*memref(window.id, 0, room), most, *NO_VALUES[3:]),
                session,
            )
            data = bytes(window.buffer[: min(values[2], room)])
        head = b"".join(word.to_bytes(8, "little") for word in values[4:])
        return read_tail(data, values[3], head, known)
