"""What a cloud call may cost at most, and what it did cost."""

import math
from dataclasses import dataclass

from ptmo_secure.cloud.providers import ModelPrice, Provider
from ptmo_secure.errors import InputError

_PER_MILLION = 1e6
_TEMPLATE_TOKENS = 16  # most that a chat template adds to a message
DIMENSIONS = ("usd", "seconds", "joules")


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars, seconds of waiting, and joules of the device while it waits; each 0 or more."""

    usd: float = 0.0
    seconds: float = 0.0
    joules: float = 0.0

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"a cost of {value} {name} makes no sense")


def most_prompt_tokens(body_bytes: int, messages: int) -> int:
    """Return a bound on the tokens of a request: no tokenizer makes more of them than bytes."""
    return body_bytes + _TEMPLATE_TOKENS * (messages + 1)


def price(model: ModelPrice, prompt_tokens: int, completion_tokens: int) -> float:
    """Return dollars: tokens times the noted price."""
    prompt = prompt_tokens * model.usd_per_million_prompt
    return (prompt + completion_tokens * model.usd_per_million_completion) / _PER_MILLION


def call_cost(
    provider: Provider,
    model: ModelPrice,
    prompt_tokens: int,
    completion_tokens: int,
    seconds: float,
) -> Cost:
    """Return the cost of a call.

    Args:
        provider: whose waiting power counts: joules = seconds x watts.
        model: whose price counts.
        prompt_tokens, completion_tokens: billed.
        seconds: waited for it.
    """
    usd = price(model, prompt_tokens, completion_tokens)
    return Cost(usd, seconds, seconds * provider.waiting_watts)
