"""Batched decoding: tokens per second of several requests in one pass over the weights.

Every request decodes greedily, past any stop, after a prompt of the same length. Batch sizes take
turns within a round, so that a machine that changes its speed changes all of them alike.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptmo_secure.bench import SAMPLE_TEXT, Progress, Setting, prompt_ids, settings
from ptmo_secure.config import BenchConfig
from ptmo_secure.engine.config import MAX_CACHE_TOKENS, MAX_SEALED_SESSIONS
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.engine.engine import Engine

HEADINGS: tuple[str, ...] = (
    "shield",
    "kv",
    "threads",
    "prompt + decode",
    "batch",
    "total t/s",
    "t/s each",
    "/ one",
)
_SPARE_ROWS = 32  # of a session's last page


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Medians of one batch size. The fields are the keys of the JSON."""

    shield: str
    restore: str | None
    kv_dtype: str
    threads: int
    prompt_tokens: int
    decode_tokens: int
    batch: int
    total_tps: float  # of all requests together
    speedup: float | None  # over a batch of one, round by round; None where that was not measured

    def as_json(self) -> dict[str, object]:
        """The result as a JSON object."""
        return asdict(self)


class BatchDecoding:
    """Sessions with a prompt in their caches; each turn decodes after it and forgets what it made.

    Args:
        engine: its cache must hold the rows of all sessions.
        batch: how many, >= 1.
        prompt_tokens: length of each one's prompt.
    """

    def __init__(self, engine: "Engine", batch: int, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._sessions = [engine.open_session() for _ in range(batch)]
        ids = prompt_ids(engine.tokenizer.encode(SAMPLE_TEXT), prompt_tokens)
        self._logits = [session.feed(ids) for session in self._sessions]

    def tokens_per_second(self, decode_tokens: int) -> float:
        """Decode so many tokens of each; return all of them over the time taken."""
        from ptmo_secure.engine.feed import feed_batch

        logits = self._logits
        start = time.perf_counter()
        for _ in range(decode_tokens):
            tokens = [int(np.argmax(row)) for row in logits]
            feeds = [(s, [token]) for s, token in zip(self._sessions, tokens, strict=True)]
            logits = feed_batch(feeds)
        taken = time.perf_counter() - start
        for session in self._sessions:
            session.truncate(self._prompt_tokens)
        return len(self._sessions) * decode_tokens / taken


def run_batch_bench(config: BenchConfig, progress: Progress) -> list[BatchResult]:
    """Measure every batch size of every configuration at every prompt length.

    Args:
        config: what to measure; `batches` are the sizes.
        progress: called before each measurement and once at the end.
    Raises:
        InputError: the model is unknown or not pulled, a prompt does not fit its context, or there
            is no room for so many requests.
    """
    chosen = [(setting, context) for setting in settings(config) for context in config.contexts]
    for setting, context in chosen:
        _check_room(config, setting, context)
    steps = config.rounds * len(config.batches)
    total = len(chosen) * steps
    results: list[BatchResult] = []
    for number, (setting, context) in enumerate(chosen):
        progress(number * steps, total, f"{setting.label}: loading")
        with ExitStack() as stack:
            engine = stack.enter_context(_open(config, setting, context))
            sides = {n: BatchDecoding(engine, n, context) for n in config.batches}
            rates: dict[int, list[float]] = {n: [] for n in sides}
            for turn in range(config.rounds):
                for at, (n, side) in enumerate(sides.items()):
                    done = number * steps + turn * len(sides) + at
                    progress(done, total, f"{setting.label}: batch of {n}")
                    rates[n].append(side.tokens_per_second(config.decode_tokens))
        results += _summaries(config, setting, context, rates)
    progress(total, total, "done")
    return results


def _check_room(config: BenchConfig, setting: Setting, context: int) -> None:
    """Refuse more requests than can be open at once; those of all batch sizes are."""
    rows = context + config.decode_tokens
    most = MAX_CACHE_TOKENS // (rows + _SPARE_ROWS)
    if "seal" in setting.shield:
        most = min(most, MAX_SEALED_SESSIONS)
    wanted = sum(config.batches)
    if wanted > most:
        sizes = ",".join(map(str, config.batches))
        raise InputError(
            f"batch {sizes} is too large: {wanted} requests of {rows} tokens at once, and at most "
            f"{most} fit under shield {setting.shield!r}"
        )


def _open(config: BenchConfig, setting: Setting, context: int) -> "Engine":
    from ptmo_secure.engine.engine import Engine

    rows = context + config.decode_tokens
    return Engine.load(
        config.model,
        shield=setting.shield,
        restore=setting.restore or "folded",
        kv_dtype=setting.kv_dtype,
        threads=setting.threads,
        device=config.device,
        context_tokens=rows,
        cache_tokens=sum(config.batches) * (rows + _SPARE_ROWS),
    )


def _summaries(
    config: BenchConfig, setting: Setting, context: int, rates: dict[int, list[float]]
) -> Iterator[BatchResult]:
    for batch, taken in rates.items():
        single = rates.get(1)
        speedups = [a / b for a, b in zip(taken, single, strict=True)] if single else []
        yield BatchResult(
            shield=setting.shield,
            restore=setting.restore,
            kv_dtype=setting.kv_dtype,
            threads=setting.threads,
            prompt_tokens=context,
            decode_tokens=config.decode_tokens,
            batch=batch,
            total_tps=statistics.median(taken),
            speedup=statistics.median(speedups) if speedups else None,
        )


def iterate_rows(results: Sequence[BatchResult]) -> Iterator[tuple[str, ...]]:
    """Cells of a table for people: one row per result, numbers rounded."""
    for r in results:
        yield (
            r.shield if r.restore is None else f"{r.shield} ({r.restore})",
            r.kv_dtype,
            str(r.threads),
            f"{r.prompt_tokens} + {r.decode_tokens}",
            str(r.batch),
            f"{r.total_tps:.0f}",
            f"{r.total_tps / r.batch:.1f}",
            "" if r.speedup is None else f"{r.speedup:.2f}",
        )
