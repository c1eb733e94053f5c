"""What decoding together gains."""

import statistics
import time

from rounds import interleave

from ptmo_secure import Engine
from ptmo_secure.bench import SAMPLE_TEXT, prompt_ids
from ptmo_secure.bench_batch import BatchDecoding
from ratios.measured import Measured, Settings, median_of

BATCH = 8
CONTEXT = 16
PREFILL_TOKENS = 512
TOKENS = 64  # of a request
RUNS = 3


def batch_8(settings: Settings, threads: int) -> Measured:
    """Tokens/s of eight requests together / min(2.5 x one's, 0.8 x tokens/s of a 512 prompt)."""
    rows = CONTEXT + TOKENS
    fields = {"context_tokens": max(rows, PREFILL_TOKENS), "cache_tokens": 4 * PREFILL_TOKENS}
    with Engine.load(settings.model, threads=threads, shield="none", **fields) as engine:
        batch, single = BatchDecoding(engine, BATCH, CONTEXT), BatchDecoding(engine, 1, CONTEXT)
        for side in (batch, single):
            side.tokens_per_second(TOKENS)  # warms up
        found = interleave(
            {
                "batch": lambda: batch.tokens_per_second(TOKENS),
                "single": lambda: single.tokens_per_second(TOKENS),
                "prefill": lambda: _prefill_tokens_per_second(engine),
            },
            settings.rounds,
            RUNS,
        )
    ratios = [
        together / min(2.5 * one, 0.8 * prefill)
        for together, one, prefill in zip(
            found["batch"], found["single"], found["prefill"], strict=True
        )
    ]
    return median_of(
        ratios,
        batch_tokens_per_s=statistics.median(found["batch"]),
        single_tokens_per_s=statistics.median(found["single"]),
        prefill_tokens_per_s=statistics.median(found["prefill"]),
        runs=RUNS,  # of this one; not the settings'
        decode_tokens=TOKENS,
    )


def _prefill_tokens_per_second(engine: Engine) -> float:
    ids = prompt_ids(engine.tokenizer.encode(SAMPLE_TEXT), PREFILL_TOKENS)
    with engine.open_session() as session:
        start = time.perf_counter()
        session.feed(ids)
        return PREFILL_TOKENS / (time.perf_counter() - start)
