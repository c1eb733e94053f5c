"""What LoRA adapters cost while decoding, and changing them."""

import statistics
import time

from rounds import compare

from ptmo_secure.engine.adapters import random_adapter
from ratios.decoding import Decoding, open_engine
from ratios.measured import Measured, Settings, median_of

CONTEXT = 128
RANK = 16
SWAPS = 200


def lora_1(settings: Settings, threads: int) -> Measured:
    """Decode time with / without a rank-16 adapter on all seven linear layers."""
    return _cost(settings, threads, 1)


def lora_3(settings: Settings, threads: int) -> Measured:
    """The same with three of them, stacked."""
    return _cost(settings, threads, 3)


def _cost(settings: Settings, threads: int, count: int) -> Measured:
    names = [f"random-{i}" for i in range(count)]
    with (
        open_engine(settings, threads, CONTEXT, shield="none") as adapted,
        open_engine(settings, threads, CONTEXT, shield="none") as plain,
    ):
        for seed, name in enumerate(names):
            adapted.add_adapter(name, random_adapter(adapted.model, RANK, seed))
        one, two = Decoding(adapted, CONTEXT, names), Decoding(plain, CONTEXT)
        for side in (one, two):
            side.seconds_per_token(settings.decode_tokens)  # warms up
        taken = compare(
            lambda: one.seconds_per_token(settings.decode_tokens),
            lambda: two.seconds_per_token(settings.decode_tokens),
            settings.rounds,
            settings.runs,
        )
    return median_of(
        taken.ratios,
        with_ms_per_token=1e3 * statistics.median(taken.a),
        without_ms_per_token=1e3 * statistics.median(taken.b),
    )


def adapter_swap(settings: Settings, threads: int) -> Measured:
    """Microseconds in which a session with rows in its cache changes its adapter (`keep_kv`)."""
    with open_engine(settings, threads, CONTEXT, shield="none") as engine:
        for seed, name in enumerate("ab"):
            engine.add_adapter(name, random_adapter(engine.model, RANK, seed))
        session = engine.start_session(["a"])
        session.feed([1, 2, 3])
        rounds = []
        for _ in range(settings.rounds):
            start = time.perf_counter()
            for i in range(SWAPS):
                session.use_adapters(["ba"[i % 2]], keep_kv=True)
            rounds.append((time.perf_counter() - start) / SWAPS * 1e6)
    return median_of(rounds)
