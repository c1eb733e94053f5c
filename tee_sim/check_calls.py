"""The client's call on what is about to leave the device: text in, kinds of values out."""

from dataclasses import dataclass

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.placeholders import KINDS
from tee_sim.protocol import GuardCommand, ParamType, memref, param_types
from tee_sim.scan_calls import ScanCalls

_CHECK = param_types(
    ParamType.MEMREF_INPUT,
    ParamType.VALUE_OUTPUT,
    ParamType.VALUE_INPUT,
    ParamType.VALUE_INPUT,
)
_WORDS_BIT, _SCAN_BIT = 1, 2


@dataclass(frozen=True, slots=True)
class Checked:
    """What stands in a text that should hold nothing private.

    Args:
        held: kind of a value of the vault that it holds, e.g. "EMAIL"; None: none.
        private: kind of a private span that is no placeholder or surrogate of the vault; None: none
            was found, or the text was not scanned.
    """

    held: str | None
    private: str | None


class CheckCalls(ScanCalls):
    """What `Vault.check` stands on."""

    def _check(
        self, owner: tuple[int, int], number: int, data: bytes, *, words: bool, scan: bool
    ) -> Checked:
        size, flags = len(data), words * _WORDS_BIT | scan * _SCAN_BIT
        with self._channel.lock:
            window = self._shared_window(max(size, 1))
            try:
                window.buffer[:size] = data
                values = (*memref(window.id, 0, size), 0, 0, number, flags, *owner)
                held, private = self._invoke(GuardCommand.CHECK, _CHECK, values)[2:4]
            finally:
                window.wipe(size)
        return Checked(_kind(held), _kind(private))


def _kind(code: int) -> str | None:
    if code > len(KINDS):
        raise TeeError(ResultCode.COMMUNICATION, Origin.API, "the guard's answer cannot be read")
    return KINDS[code - 1] if code else None
