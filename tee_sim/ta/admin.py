"""The `admin` trusted application: what the TEE knows of its own use, and ROTATE."""

from tee_sim.audit import AuditLog
from tee_sim.audit_chain import DIGEST_BYTES, RECORD_BYTES
from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.protocol import TA_ADMIN, AdminCommand, ParamType, Values, param_types
from tee_sim.ta.kv import KvApplication

_OUT = ParamType.VALUE_OUTPUT


class AdminApplication:
    """Answers from the audit log, and has the `kv` application rotate. Holds no key.

    Security: sizes, codes, numbers and counts of calls; no content of any.

    Args:
        audit: the log of the connection that this application serves.
        kv: whose models and sessions they are.
    """

    def __init__(self, audit: AuditLog, kv: KvApplication) -> None:
        self._audit = audit
        self._kv = kv
        self.uuid = TA_ADMIN
        self.epoch = 0
        self.commands: dict[int, tuple[int, Handler]] = {
            AdminCommand.STATS: (param_types(_OUT, _OUT, _OUT, _OUT), self._stats),
            AdminCommand.AUDIT_TAIL: (
                param_types(ParamType.MEMREF_OUTPUT, ParamType.VALUE_INOUT, _OUT, _OUT),
                self._audit_tail,
            ),
            AdminCommand.ROTATE: (param_types(ParamType.VALUE_INPUT, _OUT), self._rotate),
        }

    def close(self) -> None:
        """Nothing secret is held."""

    def _stats(self, params: Params) -> Values:
        """Out (crossings, refused requests), (bytes in, bytes out), (records kept, uptime ms),
        (sessions with a seal key, those of them whose key is due).

        All of them before this call; bytes are those of commands that succeeded.
        """
        audit = self._audit
        audit.end_run()
        moved = (audit.crossings, audit.refused, audit.bytes_in, audit.bytes_out)
        return (*moved, audit.kept, audit.uptime_ms, *self._kv.sealing())

    def _audit_tail(self, params: Params) -> Values:
        """Out a digest and records (memory); in (most, 0), out (bytes written, length of the log).

        Out, in the last two parameters: the head's 32 bytes, little-endian. As many of the newest
        records as fit, at most as many as asked for; this call is not among them yet.
        """
        memory, most = params.memory(0), params.values[2]
        room = (len(memory) - DIGEST_BYTES) // RECORD_BYTES
        if room < 0 or params.values[3]:
            raise TeeError(ResultCode.SHORT_BUFFER, Origin.TRUSTED_APP, "no room for a digest")
        data, length, head = self._audit.tail(min(most, room))
        memory[: len(data)] = data
        words = (int.from_bytes(head[at : at + 8], "little") for at in range(0, DIGEST_BYTES, 8))
        return (0, 0, len(data), length, *words)

    def _rotate(self, params: Params) -> Values:
        """In (model handle or 0, stage); out (epoch, 0): see `KvApplication.rotate`."""
        return (0, 0, self._kv.rotate(*params.values[:2]), 0, 0, 0, 0, 0)
