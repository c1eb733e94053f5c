"""Speed of the engine under each shield: tokens per second, bytes, crossings, simulated TEE time.

Decoding reads the weights once a token, and the cache's rows: bytes over time is set against what
the machine's cores can read from a buffer of that size, measured in the same rounds.

Rounds are interleaved (A B A B, not A A B B), so that a machine that slows down while it is
measured slows every configuration alike; the median over the rounds is reported.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ptmo_secure.config import BenchConfig

if TYPE_CHECKING:
    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.engine.session import Session
    from tee_sim.client import Usage

Progress = Callable[[int, int, str], None]  # steps done, steps in all, what is being done

SAMPLE_TEXT = (
    "The tide came in over the flats, grey and quick, and by nine the road was gone. "
    "Anna counted 14 boats, 3 of them new; none flew a flag. 'Later,' she said, 'we will row.' "
)

_ADAPTER_RANK = 16
_COPY_BYTES = 256 << 20  # several times the last cache of any device


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration to measure; `restore` is None where nothing is permuted."""

    shield: str
    restore: str | None
    kv_dtype: str
    threads: int
    adapters: int = 0

    @property
    def engine(self) -> "Setting":
        """The engine it runs on: adapters are chosen by session."""
        return replace(self, adapters=0)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The adapters that its sessions stack."""
        return _adapter_names(self.adapters)

    @property
    def label(self) -> str:
        """Short name for progress lines."""
        parts = [self.shield, self.restore, self.kv_dtype, f"{self.threads} threads"]
        if self.adapters:
            parts.append(f"{self.adapters} adapters")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Medians of one configuration at one prompt length. The fields are the keys of the JSON."""

    shield: str
    restore: str | None
    kv_dtype: str
    threads: int
    adapters: int  # of rank 16, stacked
    prompt_tokens: int
    decode_tokens: int
    prefill_tps: float
    decode_tps: float
    kv_bytes_per_token: int
    weights_bytes: int
    tee_crossings_per_token: float  # while decoding
    tee_ms_per_token: float  # waited for those, on this machine
    sim_tee_ms_per_token: float  # what those would take on the cost model's device
    read_bytes_per_token: int  # weights, and the cache's rows on average
    # Of the machine, at that many bytes and with those threads; of a CUDA device what a copy moves
    read_bandwidth_gbps: float
    bandwidth_fraction: float  # bytes read a second while decoding / the machine's

    def as_json(self) -> dict[str, object]:
        """The result as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    prefill_s: float
    decode_s: float
    usage: "Usage"  # of the TEE, while decoding
    tokens: tuple[int, ...] = ()  # what was decoded


def settings(config: BenchConfig) -> list[Setting]:
    """The configurations to compare: shields with a permutation once per way to undo it."""
    return [
        Setting(shield, restore, kv_dtype, threads, adapters)
        for threads in config.threads
        for kv_dtype in config.kv_dtypes
        for shield in config.shields
        for restore in (config.restores if "permute" in shield else (None,))
        for adapters in config.adapters
    ]


def run_bench(config: BenchConfig, progress: Progress | None = None) -> list[BenchmarkResult]:
    """Measure every configuration at every prompt length.

    All configurations of one thread count are open at once: their weights must fit in memory.

    Args:
        config: what to measure.
        progress: called before each measurement and once at the end.
    Returns:
        One result per configuration and prompt length.
    Raises:
        InputError: the model is unknown or not pulled, or a prompt does not fit its context.
    """
    report = progress or _silent
    chosen = settings(config)
    total = len(chosen) * len(config.contexts) * config.rounds
    done = 0
    results = []
    for threads in config.threads:
        group = [setting for setting in chosen if setting.threads == threads]
        with ExitStack() as stack:
            opened: dict[Setting, Engine] = {}
            for setting in group:
                if setting.engine not in opened:
                    report(done, total, f"{setting.engine.label}: loading")
                    opened[setting.engine] = stack.enter_context(_open(config, setting))
            engines = [opened[setting.engine] for setting in group]
            for context in config.contexts:
                samples: list[list[Sample]] = [[] for _ in group]
                sizes = [
                    decode_bytes(engine, context, config.decode_tokens, setting.adapter_names)
                    for engine, setting in zip(engines, group, strict=True)
                ]
                bandwidth: dict[int, list[float]] = {size: [] for size in sizes}
                for _ in range(config.rounds):
                    for size, measured in bandwidth.items():
                        measured.append(peak_bandwidth(config.device, size, threads))
                    for i, setting in enumerate(group):
                        report(done, total, f"{setting.label}: {context} + {config.decode_tokens}")
                        samples[i].append(
                            measure(
                                engines[i], context, config.decode_tokens, setting.adapter_names
                            )
                        )
                        done += 1
                for i, setting in enumerate(group):
                    peak = statistics.median(bandwidth[sizes[i]])
                    results.append(
                        _summary(setting, engines[i], context, config, samples[i], sizes[i], peak)
                    )
    report(total, total, "done")
    return results


def measure(
    engine: "Engine", prompt_tokens: int, decode_tokens: int, adapters: Sequence[str] = ()
) -> Sample:
    """Run a prompt of a given length in a fresh session, then decode greedily past any stop."""
    ids = prompt_ids(engine.tokenizer.encode(SAMPLE_TEXT), prompt_tokens)
    return measure_ids(engine, ids, decode_tokens, adapters)


def measure_ids(
    engine: "Engine", ids: Sequence[int], decode_tokens: int, adapters: Sequence[str] = ()
) -> Sample:
    """Time a given prompt in a fresh session, then greedy decoding past any stop."""
    session = engine.start_session(adapters)
    start = time.perf_counter()
    logits = session.feed(ids)
    prefilled = time.perf_counter()
    before = engine.sessions.ledger.usage()
    tokens = decode_greedily(session, logits, decode_tokens)
    end = time.perf_counter()
    usage = engine.sessions.ledger.usage() - before
    engine.reset()
    return Sample(prefilled - start, end - prefilled, usage, tuple(tokens))


def decode_greedily(
    session: "Session",
    logits: npt.NDArray[np.float32],  # [1, vocab_size]
    count: int,
) -> list[int]:
    """Feed the likeliest token `count` times; return the tokens fed."""
    tokens = []
    for _ in range(count):
        tokens.append(int(np.argmax(logits)))
        logits = session.feed(tokens[-1:])
    return tokens


def decode_bytes(
    engine: "Engine", context: int, decode_tokens: int, adapters: Sequence[str] = ()
) -> int:
    """Bytes that decoding a token reads: weights and adapters once, the cache's rows on average."""
    stats = engine.stats()
    rows = context + (decode_tokens + 1) / 2
    kv = rows * count_of(stats, "kv_bytes_per_token")
    low_rank = sum(engine.adapters[name].bytes for name in adapters)
    return count_of(stats, "weights_bytes_per_token") + low_rank + round(kv)


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes per second at which `threads` cores of this machine read a buffer of `size` bytes."""
    from ptmo_secure import _native

    return _native.read_bandwidth(size, threads)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, at which the CUDA device copies a large buffer."""
    from ptmo_secure.engine.native_setup import cuda_module

    copy = cuda_module().CopyBench(_COPY_BYTES)
    return 1e3 * float(copy.call_bytes) / float(copy.milliseconds())


def peak_bandwidth(device: str, size: int, threads: int) -> float:
    """What decoding on this device is set against, in bytes per second."""
    return copy_bandwidth() if device == "cuda" else read_bandwidth(size, threads)


def prompt_ids(text_ids: Sequence[int], length: int) -> list[int]:
    """`text_ids` repeated and cut to `length`."""
    return [text_ids[i % len(text_ids)] for i in range(length)]


def _open(config: BenchConfig, setting: Setting) -> "Engine":
    from ptmo_secure.engine.adapters import random_adapter
    from ptmo_secure.engine.engine import Engine

    engine = Engine.load(
        config.model,
        shield=setting.shield,
        restore=setting.restore or "folded",
        kv_dtype=setting.kv_dtype,
        threads=setting.threads,
        device=config.device,
        context_tokens=max(config.contexts) + config.decode_tokens,
    )
    for seed, name in enumerate(_adapter_names(max(config.adapters))):
        engine.add_adapter(name, random_adapter(engine.model, _ADAPTER_RANK, seed))
    if config.inject_cost:
        engine.sessions.ledger.inject(config.cost_model.milliseconds)
    measure(engine, min(16, *config.contexts), 2)  # touches the weights and starts the threads
    return engine


def _adapter_names(count: int) -> tuple[str, ...]:
    return tuple(f"random-{i}" for i in range(count))


def _summary(
    setting: Setting,
    engine: "Engine",
    context: int,
    config: BenchConfig,
    taken: list[Sample],
    read_bytes: int,
    bandwidth: float,
) -> BenchmarkResult:
    stats = engine.stats()
    decode_tps = statistics.median(config.decode_tokens / s.decode_s for s in taken)
    return BenchmarkResult(
        shield=setting.shield,
        restore=setting.restore,
        kv_dtype=setting.kv_dtype,
        threads=setting.threads,
        adapters=setting.adapters,
        prompt_tokens=context,
        decode_tokens=config.decode_tokens,
        prefill_tps=statistics.median(context / s.prefill_s for s in taken),
        decode_tps=decode_tps,
        kv_bytes_per_token=count_of(stats, "kv_bytes_per_token"),
        weights_bytes=count_of(stats, "weights_bytes"),
        tee_crossings_per_token=statistics.median(
            s.usage.crossings / config.decode_tokens for s in taken
        ),
        tee_ms_per_token=statistics.median(s.usage.wall_ms / config.decode_tokens for s in taken),
        sim_tee_ms_per_token=statistics.median(
            config.cost_model.milliseconds(s.usage) / config.decode_tokens for s in taken
        ),
        read_bytes_per_token=read_bytes,
        read_bandwidth_gbps=bandwidth / 1e9,
        bandwidth_fraction=decode_tps * read_bytes / bandwidth,
    )


def count_of(stats: dict[str, object], name: str) -> int:
    """An integer of `Engine.stats()`."""
    value = stats[name]
    if not isinstance(value, int):
        raise TypeError(f"engine.stats()[{name!r}] is no integer")
    return value


def _silent(done: int, total: int, label: str) -> None:
    """Report nothing."""


def iterate_rows(results: Sequence[BenchmarkResult]) -> Iterator[tuple[str, ...]]:
    """Cells of a table for people: one row per result, numbers rounded."""
    for r in results:
        yield (
            r.shield if r.restore is None else f"{r.shield} ({r.restore})",
            r.kv_dtype,
            str(r.threads),
            str(r.adapters),
            f"{r.prompt_tokens} + {r.decode_tokens}",
            f"{r.prefill_tps:.0f}",
            f"{r.decode_tps:.1f}",
            f"{1000 / r.decode_tps:.2f}",
            f"{r.tee_ms_per_token:.2f}",
            f"{r.sim_tee_ms_per_token:.2f}",
            f"{r.tee_crossings_per_token:.1f}",
            f"{r.kv_bytes_per_token}",
            f"{r.weights_bytes / 2**20:.0f} MiB",
            f"{100 * r.bandwidth_fraction:.0f} %",
        )
