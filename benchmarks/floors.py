"""What every ratio must reach, and what it should: the one place of floors and goals."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Bound = Literal["at_least", "at_most"]


@dataclass(frozen=True, slots=True)
class Target:
    """A floor that fails the check, and a goal."""

    floor: float
    goal: float
    bound: Bound = "at_least"
    unit: str = ""

    def holds(self, measured: float) -> bool:
        """Whether the floor is kept."""
        return _holds(measured, self.floor, self.bound)

    def reaches_goal(self, measured: float) -> bool:
        """Whether the goal is reached."""
        return _holds(measured, self.goal, self.bound)


def _holds(measured: float, limit: float, bound: Bound) -> bool:
    return measured >= limit if bound == "at_least" else measured <= limit


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table: a name, what it is in words, and its targets by thread count."""

    name: str
    title: str
    targets: dict[int, Target]


def _both(target: Target) -> dict[int, Target]:
    return {1: target, 2: target}


METRICS = (
    Metric(
        "decode_q4_1",
        "decode, 128 tokens, ours / llama.cpp, Q4_1",
        {1: Target(1.6, 2.5), 2: Target(2.0, 4.0)},
    ),
    Metric(
        "decode_q4_0",
        "decode, 128 tokens, ours / llama.cpp, Q4_0",
        {1: Target(1.2, 1.8), 2: Target(1.6, 2.8)},
    ),
    Metric(
        "prefill_q4_1",
        "prefill, 512 tokens, ours / llama.cpp, Q4_1",
        {2: Target(2.0, 3.0)},
    ),
    Metric(
        "prefill_q4_0",
        "prefill, 512 tokens, ours / llama.cpp, Q4_0",
        {2: Target(0.75, 1.3)},
    ),
    Metric(
        "seal_1024",
        "decode `seal` / `none` at 1,024 tokens, INT8 KV",
        _both(Target(0.88, 0.95)),
    ),
    Metric(
        "seal_4096",
        "decode `seal` / `none` at 4,096 tokens, INT8 KV",
        _both(Target(0.80, 0.92)),
    ),
    Metric("permute", "decode `permute` folded / `none`", _both(Target(0.97, 1.00))),
    Metric(
        "tee_crossings",
        "decode `permute` restored in the TEE, waited for its 30 crossings a token",
        _both(Target(1.5, 1.0, "at_most", "ms")),
    ),
    Metric(
        "tee_call", "round trip of an empty call, p50", {1: Target(30.0, 20.0, "at_most", "us")}
    ),
    Metric("kv_int8", "decode INT8 KV / FP16 KV at 2,048 tokens", _both(Target(1.00, 1.15))),
    Metric(
        "lora_1",
        "decode time with / without a rank-16 adapter on all linear layers",
        _both(Target(1.18, 1.08, "at_most")),
    ),
    Metric(
        "lora_3",
        "decode time with / without three stacked rank-16 adapters",
        _both(Target(1.45, 1.22, "at_most")),
    ),
    Metric(
        "adapter_swap",
        "change of a session's adapter",
        _both(Target(1000.0, 50.0, "at_most", "us")),
    ),
    Metric(
        "batch_8",
        "decode, 8 together, tokens/s / min(2.5 x one alone, 0.8 x 512-token prefill)",
        _both(Target(1.0, 1.5)),
    ),
    Metric(
        "bandwidth",
        "decode, weights + KV bytes/s / the machine's read bandwidth at that size",
        {1: Target(0.60, 0.85), 2: Target(0.45, 0.75)},
    ),
    Metric(
        "memory",
        "growth of peak memory, load to 512 + 128 tokens / (weights + KV + 64 MiB)",
        {2: Target(1.0, 0.9, "at_most")},
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
THREADS = tuple(sorted({threads for metric in METRICS for threads in metric.targets}))


@dataclass(frozen=True, slots=True)
class GpuMetric:
    """One ratio of a CUDA device: a row for each shape or length it is measured at."""

    name: str
    title: str
    variants: tuple[str, ...]
    target: Target


LAYERS = ("14336x4096", "4096x14336")  # rows x columns of W_gate or W_up, of W_down in a 7-8B model

GPU_METRICS = (
    GpuMetric(
        "gemv_g128",
        "INT4 GEMV, group 128, bytes/s / measured copy bandwidth",
        LAYERS,
        Target(0.65, 0.80),
    ),
    GpuMetric(
        "gemv_g32",
        "INT4 GEMV, group 32, bytes/s / measured copy bandwidth",
        LAYERS,
        Target(0.60, 0.80),
    ),
    GpuMetric(
        "gemv_bf16",
        "time of cuBLAS bf16 / INT4 GEMV, batch 1",
        LAYERS,
        Target(2.8, 3.4),
    ),
    GpuMetric(
        "gemv_torch_int4",
        "time of torch int4 / INT4 GEMV, batch 1",
        LAYERS,
        Target(1.2, 1.5),
    ),
    GpuMetric(
        "gemm_16",
        "time of cuBLAS bf16 / INT4 product, 16 tokens",
        LAYERS,
        Target(2.0, 3.0),
    ),
    GpuMetric(
        "gemm_128",
        "time of cuBLAS bf16 / INT4 product, 128 tokens",
        LAYERS,
        Target(0.7, 1.0),
    ),
    GpuMetric(
        "lora_fused",
        "time with a fused rank-16 update / without",
        LAYERS,
        Target(1.08, 1.04, "at_most"),
    ),
    GpuMetric(
        "attention_permuted",
        "decode attention, angles per KV head / shared",
        ("2048", "32768"),
        Target(1.03, 1.01, "at_most"),
    ),
    GpuMetric(
        "attention_sealed",
        "decode attention, INT8 cache, sealed / in the clear",
        ("8192",),
        Target(1.25, 1.08, "at_most"),
    ),
    GpuMetric(
        "attention_int8",
        "decode attention, INT8 / FP16 cache",
        ("32768",),
        Target(0.60, 0.52, "at_most"),
    ),
    GpuMetric(
        "smollm2_decode",
        "SmolLM2-135M tokens/s / transformers eager",
        ("batch 1",),
        Target(3.0, 8.0),
    ),
)
GPU_BY_NAME = {metric.name: metric for metric in GPU_METRICS}


def with_targets(names: Iterable[str], threads: Iterable[int]) -> list[tuple[Metric, int]]:
    """Those of the metrics at those of the thread counts that have a target."""
    counts = tuple(threads)
    return [(BY_NAME[name], n) for name in names for n in counts if n in BY_NAME[name].targets]
