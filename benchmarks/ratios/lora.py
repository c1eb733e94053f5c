"""What LoRA adapters of rank 16 on all seven linear layers cost, and what changing them takes."""

import statistics
import time

from rounds import compare, interleave

from ptmo_secure.bench import adapter_names, add_random_adapters
from ratios.decoding import Decoding, open_engine
from ratios.measured import Measured, Settings, median_of

CONTEXT = 16
_SWAPS = 100  # a turn
_SESSIONS = 2  # open at once


def lora_1(settings: Settings, threads: int) -> Measured:
    """Decode time with one adapter / without."""
    return _stacked(settings, threads, 1)


def lora_3(settings: Settings, threads: int) -> Measured:
    """Decode time with three stacked adapters / without."""
    return _stacked(settings, threads, 3)


def lora_swap(settings: Settings, threads: int) -> Measured:
    """Microseconds that a session takes to change its adapter, keeping its rows."""
    with open_engine(settings, threads, CONTEXT, shield="none") as engine:
        add_random_adapters(engine, 2)
        session = engine.start_session(adapter_names(1))
        session.feed([1])
        first, second = ([name] for name in adapter_names(2))

        def swap() -> float:
            start = time.perf_counter()
            for _ in range(_SWAPS // 2):
                session.use_adapters(second, keep_kv=True)
                session.use_adapters(first, keep_kv=True)
            return 1e6 * (time.perf_counter() - start) / _SWAPS

        return median_of(interleave({"swap": swap}, settings.rounds, settings.runs)["swap"])


def _stacked(settings: Settings, threads: int, count: int) -> Measured:
    room = {"cache_tokens": _SESSIONS * (CONTEXT + settings.decode_tokens + 32)}
    with open_engine(settings, threads, CONTEXT, shield="none", **room) as engine:
        add_random_adapters(engine, count)
        adapted = Decoding(engine, CONTEXT, engine.open_session(adapter_names(count)))
        plain = Decoding(engine, CONTEXT, engine.open_session())
        for side in (adapted, plain):
            side.seconds_per_token(settings.decode_tokens)  # warms up
        taken = compare(
            lambda: adapted.seconds_per_token(settings.decode_tokens),
            lambda: plain.seconds_per_token(settings.decode_tokens),
            settings.rounds,
            settings.runs,
        )
    return median_of(
        taken.ratios,
        tokens_per_s=1 / statistics.median(taken.a),
        baseline_tokens_per_s=1 / statistics.median(taken.b),
        adapter_bytes=sum(info.bytes for info in engine.adapters.values()),
    )
