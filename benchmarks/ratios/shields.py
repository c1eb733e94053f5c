"""What a shield leaves of the speed."""

import statistics
import time

from ratios.decoding import Decoding, compare_engines, open_engine
from ratios.measured import Measured, Settings, median_of
from tee_sim.client import TeeClient

PERMUTE_CONTEXT = 1024
CALLS = 5000
NONE: dict[str, object] = {"shield": "none"}


def seal_1024(settings: Settings, threads: int) -> Measured:
    """`seal` / `none` at 1,024 tokens."""
    return compare_engines(settings, threads, 1024, {"shield": "seal"}, NONE)


def seal_4096(settings: Settings, threads: int) -> Measured:
    """`seal` / `none` at 4,096 tokens."""
    return compare_engines(settings, threads, 4096, {"shield": "seal"}, NONE)


def permute(settings: Settings, threads: int) -> Measured:
    """`permute` with its restore folded into the weights / `none`."""
    folded: dict[str, object] = {"shield": "permute", "restore": "folded"}
    return compare_engines(settings, threads, PERMUTE_CONTEXT, folded, NONE)


def tee_crossings(settings: Settings, threads: int) -> Measured:
    """Milliseconds a token that `permute` restored in the TEE waits for its crossings."""
    restored: dict[str, object] = {"shield": "permute", "restore": "tee"}
    rounds, crossings = [], []
    with open_engine(settings, threads, PERMUTE_CONTEXT, **restored) as engine:
        decoding = Decoding(engine, PERMUTE_CONTEXT)
        decoding.seconds_per_token(settings.decode_tokens)  # wakes what sleeps
        tokens = settings.runs * settings.decode_tokens
        for _ in range(settings.rounds):
            before = engine.sessions.ledger.usage()
            for _ in range(settings.runs):
                decoding.seconds_per_token(settings.decode_tokens)
            usage = engine.sessions.ledger.usage() - before
            rounds.append(usage.wall_ms / tokens)
            crossings.append(usage.crossings / tokens)
    return median_of(rounds, crossings_per_token=statistics.median(crossings))


def tee_call(settings: Settings, threads: int) -> Measured:
    """Median microseconds of a call that asks for the TEE's status, and for nothing else."""
    rounds = []
    with TeeClient.launch() as tee:
        for _ in range(settings.rounds + 1):  # the first one wakes what sleeps
            times = []
            for _ in range(CALLS):
                before = time.perf_counter_ns()
                tee.status()
                times.append((time.perf_counter_ns() - before) / 1e3)
            rounds.append(statistics.median(times))
    return median_of(rounds[1:])
