"""Times a native bench with pytest-benchmark and sets its bytes against the machine's."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ptmo_secure import _native
from ptmo_secure.results import read_lines

ROUNDS = 7
ROUND_SECONDS = 0.01  # a round repeats the kernel for at least this long
# Weights that decoding reads do not fit any cache: in a rotation of this size, eight times a large
# last-level cache, no call finds its matrix where the last one left it.
ROTATED_BYTES = 256 << 20
LEAST_READ_BYTES = 16 << 10  # less, and the call itself would be what the bandwidth is measured of
RESIDENT = 0  # one matrix, which stays where it is: prefill reads it again for every few tokens


class Bench(Protocol):
    """What the native benches have in common (csrc/bench/benches.h)."""

    def run(self, repeats: int) -> None:
        """Call the kernel `repeats` times."""

    @property
    def call_bytes(self) -> int:
        """Bytes a call must read."""

    @property
    def working_set_bytes(self) -> int:
        """Bytes that the calls go round in."""


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """What a benchmark adds to pytest-benchmark's own statistics (`extra_info`)."""

    threads: int
    repeats: int  # calls a timed round
    call_us: float  # median
    call_bytes: int
    gbps: float  # call_bytes / median
    read_gbps: float  # the machine's, at working_set_bytes and these threads, around the rounds
    fraction: float  # gbps / read_gbps
    working_set_bytes: int
    resident: str  # where a working set of that size lies: L1, L2, L3 or memory
    gmacs: float | None  # 10^9 multiply-adds a second, for matrices


def time_kernel(benchmark: Any, bench: Bench, threads: int, macs: int = 0) -> None:
    """Time rounds of a bench; write its `KernelFigures` into the benchmark's extra_info.

    Args:
        benchmark: pytest-benchmark's fixture.
        bench: what to run.
        threads: the threads it was made with.
        macs: multiply-adds a call.
    """
    repeats = rounds_repeats(bench)
    size = max(bench.working_set_bytes, LEAST_READ_BYTES)
    before = _native.read_bandwidth(size, threads)
    benchmark.pedantic(bench.run, args=(repeats,), rounds=ROUNDS, warmup_rounds=1)
    after = _native.read_bandwidth(size, threads)
    if benchmark.stats is None:  # --benchmark-disable
        return
    call_s = benchmark.stats.stats.median / repeats
    found = figures(bench, threads, repeats, call_s, statistics.mean((before, after)), macs)
    benchmark.extra_info.update(asdict(found))


def rounds_repeats(bench: Bench) -> int:
    """Calls a round: once round the working set, and for ROUND_SECONDS at least."""
    calls = -(-bench.working_set_bytes // bench.call_bytes)
    while True:
        start = time.perf_counter()
        bench.run(calls)
        if time.perf_counter() - start >= ROUND_SECONDS:
            return calls
        calls *= 2


def figures(
    bench: Bench, threads: int, repeats: int, call_s: float, bandwidth: float, macs: int
) -> KernelFigures:
    """Turn a median time of one call into the figures reported."""
    rate = bench.call_bytes / call_s
    return KernelFigures(
        threads=threads,
        repeats=repeats,
        call_us=call_s * 1e6,
        call_bytes=bench.call_bytes,
        gbps=rate / 1e9,
        read_gbps=bandwidth / 1e9,
        fraction=rate / bandwidth,
        working_set_bytes=bench.working_set_bytes,
        resident=resident(bench.working_set_bytes / threads, cache_bytes()),
        gmacs=macs / call_s / 1e9 if macs else None,
    )


def cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Sizes of one core's data caches, smallest first; empty where the system does not say."""
    sizes = {}
    for index in sorted(folder.glob("index*")):
        facts = {name: "".join(read_lines(index / name)) for name in ("level", "type", "size")}
        if facts["type"] != "Instruction" and facts["size"].endswith("K"):
            sizes[f"L{facts['level']}"] = int(facts["size"][:-1]) << 10
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def resident(share_bytes: float, caches: Mapping[str, int]) -> str:
    """The smallest cache that holds one thread's share of a working set, or "memory"."""
    return next((name for name, size in caches.items() if share_bytes <= size), "memory")
