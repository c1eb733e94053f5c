"""The `guard` trusted application: SCAN a text for private spans."""

import struct

from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.guard.scoring import scan_text
from tee_sim.memory import Budget, wipe
from tee_sim.protocol import TA_GUARD, GuardCommand, ParamType, Values, param_types
from tee_sim.scan_result import LEVELS, pack_spans

MAX_TEXT_BYTES = 1 << 20
# Budget charge per byte of text: two views with their maps, the masked copy, the matches
_WORK_FACTOR = 24


class GuardApplication:
    """Runs the rules on text in shared memory. Keeps nothing between calls.

    Args:
        budget: counts the working memory of a scan.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.uuid = TA_GUARD
        self.epoch = 0
        types = param_types(
            ParamType.MEMREF_INPUT,
            ParamType.MEMREF_OUTPUT,
            ParamType.VALUE_OUTPUT,
            ParamType.VALUE_OUTPUT,
        )
        self.commands: dict[int, tuple[int, Handler]] = {GuardCommand.SCAN: (types, self._scan)}

    def close(self) -> None:
        """Nothing is held."""

    def _scan(self, params: Params) -> Values:
        """In UTF-8 text; out span records, (level, score as float64 bits), (bytes of spans, 0).

        When the spans do not fit, none is written and the third output says what they need.

        Security: the byte copy is overwritten; the decoded string is freed but Python offers no
        way to overwrite it.
        """
        shared_text, shared_spans = params.memory(0), params.memory(1)
        size = len(shared_text)
        if size > MAX_TEXT_BYTES:
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP, "text too long")
        self._budget.charge(_WORK_FACTOR * size)
        copy = bytearray(shared_text)
        try:
            result = scan_text(copy.decode("utf-8"))
        except UnicodeDecodeError:
            raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "text not UTF-8") from None
        finally:
            wipe(copy)
            self._budget.refund(_WORK_FACTOR * size)
        packed = pack_spans(result.spans)
        if len(packed) <= len(shared_spans):
            shared_spans[: len(packed)] = packed
        score_bits: int = struct.unpack("<Q", struct.pack("<d", result.score))[0]
        level = LEVELS.index(result.level)
        return (0, 0, 0, 0, level, score_bits, len(packed), 0)
