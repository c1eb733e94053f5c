"""Figures of one generation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one `Engine.generate` did and how long it took."""

    prompt_tokens: int
    prefilled_tokens: int  # prompt tokens that were not in the cache already
    decode_tokens: int
    ttft_ms: float  # from the call to the first token
    prefill_seconds: float
    decode_seconds: float  # from the first token to the end, the reader's own time included
    tee_crossings: int
    finish_reason: str  # "stop" | "length"

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens per second."""
        return self.prefilled_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Tokens per second after the first."""
        if self.decode_tokens < 2 or self.decode_seconds <= 0:
            return 0.0
        return (self.decode_tokens - 1) / self.decode_seconds
