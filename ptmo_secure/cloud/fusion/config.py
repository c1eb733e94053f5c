"""How fusion is done, and what it came to."""

import math
from dataclasses import dataclass, field

from ptmo_secure.cloud.fusion.gate import EntropyWeight, Weight
from ptmo_secure.cloud.fusion.mix import RULES, Rule
from ptmo_secure.cloud.types import MAX_TOP_LOGPROBS
from ptmo_secure.errors import InputError

MAX_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Settings of fused decoding.

    Args:
        rule: "product" or "linear" (`mix`).
        weight: gives the device's share at each position (`gate`).
        ask_margin: the cloud is asked where the device's two likeliest tokens are less than so many
            nats apart; 0 never asks, infinity always does. The default is for greedy decoding, in
            which a token that leads by more is seldom overruled.
        chunk_tokens: tokens that the cloud drafts a request, 1..256.
        top_logprobs: alternatives per token to ask for, 1..20.
        deadline_s: seconds that a token waits for the cloud at most, 0 or more; after them the
            device's distribution is used alone.
        timeout_s: seconds after which a request is given up, at least `deadline_s`.
        end_probability: what the cloud is taken to give the end of the answer where it ended its
            own, in (0, 1): servers tell that it ended, not how likely it held it. An assumption.
        streaming: take drafts token by token; otherwise whole.
        ask_at_start: ask for the first draft while the device reads the prompt.

    Raises:
        InputError: a value is out of range.
    """

    rule: Rule = "product"
    weight: Weight = field(default_factory=EntropyWeight)
    ask_margin: float = 0.75
    chunk_tokens: int = 16
    top_logprobs: int = MAX_TOP_LOGPROBS
    deadline_s: float = 0.15
    timeout_s: float = 5.0
    end_probability: float = 0.9
    streaming: bool = True
    ask_at_start: bool = True

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"unknown rule {self.rule!r}: choose from {', '.join(RULES)}")
        counts = {
            "chunk_tokens": (self.chunk_tokens, MAX_CHUNK_TOKENS),
            "top_logprobs": (self.top_logprobs, MAX_TOP_LOGPROBS),
        }
        for name, (value, high) in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise InputError(f"{name}={value!r} is not a whole number in 1..{high}")
        if not self.ask_margin >= 0.0:
            raise InputError(f"ask_margin={self.ask_margin!r} is no number of nats, 0 or more")
        if not 0.0 <= self.deadline_s <= self.timeout_s < math.inf:
            raise InputError(
                f"deadline_s={self.deadline_s!r} and timeout_s={self.timeout_s!r} are no seconds "
                "with the deadline the shorter"
            )
        if not 0.0 < self.end_probability < 1.0:
            raise InputError(f"end_probability={self.end_probability!r} is not between 0 and 1")


@dataclass(slots=True)
class FusionStats:
    """Figures of one fused answer; counts and times, never text.

    Attributes:
        tokens: chosen, the end of the answer included.
        fused: of them, those that both models had a say in.
        alone: the others by why: "sure" (the device was, and no path was at hand), "inside" (the
            tokenisations did not line up), "late" (the deadline passed), "unavailable" (asking is
            paused or has ended, the path broke off, or its tokens say nothing here).
        requests: sent to the cloud.
        failures: codes of requests that broke off: "withheld" (the answer may not be published),
            "refused" (by egress), "unsupported" (by the provider), "no_logprobs", "malformed",
            "cut_off", "failed".
        waited_s, longest_wait_s: for the cloud, by all tokens and by one.
        finish_reason: "stop" | "length"; None where the reader left.
    """

    tokens: int = 0
    fused: int = 0
    alone: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    finish_reason: str | None = None

    @property
    def requests_per_token(self) -> float:
        """Requests a token, 0 before the first."""
        return self.requests / self.tokens if self.tokens else 0.0
