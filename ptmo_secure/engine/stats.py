"""Figures of one generation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one answer took: of `Engine.generate`, or of a `Request` in a batch."""

    prompt_tokens: int
    prefilled_tokens: int  # prompt tokens that were not in the cache already
    decode_tokens: int
    ttft_ms: float  # from the call to the first token, a wait for its turn included
    prefill_seconds: float  # in a batch from its turn to its first logits
    decode_seconds: float  # from the first token to the end, the reader's own time included
    tee_crossings: int  # in a batch those of every step it took part in
    finish_reason: str  # "stop" | "length" | "cancelled"
    queued_seconds: float = 0.0  # before its turn in a batch came
    mean_logprob: float | None = None  # ln p per token, before temperature and cuts; if asked for
    preemptions: int = 0  # times its rows were given up for an older request's and computed again

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
