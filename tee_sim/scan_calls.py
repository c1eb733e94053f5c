"""The client's call on the guard: text in, spans out."""

from tee_sim.caller import Caller
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.protocol import NO_VALUES, GuardCommand, ParamType, memref, param_types
from tee_sim.scan_result import (
    LEVELS,
    SPAN_BYTES,
    ScanResult,
    encode_text,
    unpack_score,
    unpack_spans,
    unpack_verdict,
)

MIN_SPANS = 256  # a text with more of them than there is room for is read twice
_SCAN = param_types(
    ParamType.MEMREF_INPUT,
    ParamType.MEMREF_OUTPUT,
    ParamType.VALUE_OUTPUT,
    ParamType.VALUE_OUTPUT,
)


class ScanCalls(Caller):
    """What `TeeClient` offers for role "guard"."""

    def scan(self, text: str) -> ScanResult:
        """Find private spans in `text` and rate it (role "guard").

        Security: the text crosses in shared memory that is wiped before this returns or raises. A
        failure is an exception, never a harmless result: treat it as PRIVATE.

        Args:
            text: valid Unicode, at most 256 KiB of UTF-8.

        Returns:
            Level, score, spans in code points, topics, and why the level.
        """
        data = encode_text(text)
        capacity = max(MIN_SPANS, len(data) // 64) * SPAN_BYTES
        with self._channel.lock:
            while True:
                needed, result = self._scan_once(data, capacity)
                if result is not None:
                    return result
                capacity = needed

    def _scan_once(self, data: bytes, capacity: int) -> tuple[int, ScanResult | None]:
        """Scan with room for `capacity` bytes of spans; without a result, return the need."""
        size = len(data)
        window = self._shared_window(size + capacity)
        try:
            window.buffer[:size] = data
            values = self._invoke(
                GuardCommand.SCAN,
                _SCAN,
                (
                    *memref(window.id, 0, size),
                    *memref(window.id, size, capacity),
                    *NO_VALUES[4:],
                ),
            )
            level, score_bits, n_bytes, verdict = values[4:8]
            if n_bytes > capacity:
                return n_bytes, None
            spans = unpack_spans(bytes(window.buffer[size : size + n_bytes]))
            score = unpack_score(score_bits)
            return n_bytes, ScanResult(LEVELS[level], score, spans, *unpack_verdict(verdict))
        except (ValueError, IndexError):
            raise TeeError(
                ResultCode.COMMUNICATION, Origin.API, "the guard's answer cannot be read"
            ) from None
        finally:
            window.wipe(size + capacity)
