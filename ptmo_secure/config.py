"""What a user may ask for: names, ranges, defaults. A bad value raises `InputError` that names it.

The engine's own settings are `engine.config.EngineConfig`, the sampler's `SamplingParams`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from ptmo_secure.engine.config import Device, KvDtype, Restore, Shield
from ptmo_secure.errors import InputError
from ptmo_secure.tee_cost import DEFAULT_COST_MODEL, CostModel, cost_model

if TYPE_CHECKING:
    from ptmo_secure.engine.sampler import SamplingParams

DEFAULT_MODEL = "smollm2-135m"
SHIELDS: tuple[str, ...] = get_args(Shield)
RESTORES: tuple[str, ...] = get_args(Restore)
KV_DTYPES: tuple[str, ...] = get_args(KvDtype)
DEVICES: tuple[str, ...] = get_args(Device)
MAX_ADAPTERS = 8  # stacked in one request
MANY_THREADS = 8  # more are used only when asked for


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"unknown {name} {value!r}: choose from {', '.join(allowed)}")
    return value


def choices(name: str, values: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The members of a comma-separated list, each one of `allowed`, without repeats."""
    names = [part.strip() for part in values.split(",") if part.strip()]
    if not names:
        raise InputError(f"no {name} given: choose from {', '.join(allowed)}")
    return tuple(dict.fromkeys(choice(name, part, allowed) for part in names))


def whole_numbers(name: str, values: str, low: int = 1) -> tuple[int, ...]:
    """The members of a comma-separated list of integers >= `low`, without repeats."""
    numbers = []
    for part in values.split(","):
        try:
            number = int(part)
        except ValueError:
            raise InputError(f"{name} {part.strip()!r} is not a whole number") from None
        numbers.append(at_least(name, number, low))
    return tuple(dict.fromkeys(numbers))


def at_least(name: str, value: int, low: int) -> int:
    """`value` if it is `low` or more."""
    if value < low:
        raise InputError(f"{name} is {value}; it must be {low} or more")
    return value


def at_most(name: str, value: int, high: int) -> int:
    """`value` if it is `high` or less."""
    if value > high:
        raise InputError(f"{name} is {value}; it must be {high} or less")
    return value


def usable_cpus() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Threads of the engine when the user names none: the usable cores, at most `MANY_THREADS`."""
    return min(usable_cpus(), MANY_THREADS)


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How an answer is made.

    Args:
        max_tokens: longest answer, >= 1.
        sampling: how tokens are chosen; None is greedy.
        stop: strings that end the answer; none of them is part of it.
        system: system prompt; None leaves the chat template's own.
        adapters: names of loaded LoRA adapters, added up in this order.
    """

    max_tokens: int = 256
    sampling: "SamplingParams | None" = None
    stop: tuple[str, ...] = ()
    system: str | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least("max-tokens", self.max_tokens, 1)
        if "" in self.stop:
            raise InputError("a stop string is empty")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What `ptmo bench` measures: every shield at every prompt length and thread count.

    Args:
        model: a registry name or the path of a GGUF file.
        shields, restores, kv_dtypes: what to compare.
        contexts: prompt lengths in tokens.
        threads: thread counts.
        decode_tokens: tokens decoded after the prompt, >= 2.
        rounds: interleaved repetitions, of which the medians are reported.
        batches: requests that decode together; none measures prefill and decoding of one.
        adapters: LoRA adapters stacked, 0 to 8: random ones of rank 16 on every linear layer.
        cost_model: prices of what is asked of the TEE, for the simulated time.
        inject_cost: spend that time at each call, so that the speeds hold it too.
        device: what computes.
    """

    model: str = DEFAULT_MODEL
    shields: tuple[str, ...] = SHIELDS
    restores: tuple[str, ...] = RESTORES
    kv_dtypes: tuple[str, ...] = ("int8",)
    contexts: tuple[int, ...] = (128, 512)
    threads: tuple[int, ...] = (2,)
    decode_tokens: int = 64
    rounds: int = 3
    batches: tuple[int, ...] = ()
    adapters: tuple[int, ...] = (0,)
    cost_model: CostModel = field(default_factory=lambda: cost_model(DEFAULT_COST_MODEL))
    inject_cost: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        choice("device", self.device, DEVICES)
        for name, values, allowed in (
            ("shield", self.shields, SHIELDS),
            ("restore", self.restores, RESTORES),
            ("kv-dtype", self.kv_dtypes, KV_DTYPES),
        ):
            for value in values:
                choice(name, value, allowed)
        for context in self.contexts:
            at_least("contexts", context, 1)
        for count in self.threads:
            at_least("threads", count, 1)
        for count in self.batches:
            at_least("batch", count, 1)
        if self.batches and self.adapters != (0,):
            raise InputError("adapters are not measured together with batch: leave one out")
        if self.batches and self.inject_cost:
            raise InputError("inject-cost is not measured together with batch: leave one out")
        for count in self.adapters:
            if at_least("adapters", count, 0) > MAX_ADAPTERS:
                raise InputError(f"adapters is {count}; at most {MAX_ADAPTERS} add up")
        at_least("decode-tokens", self.decode_tokens, 2)
        at_least("rounds", self.rounds, 1)
