"""The device under test: our module, its ceilings, and torch where it is there."""

import importlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from ratios.measured import Measured
from rounds import ROUNDS, compare

from gpu.peers import TorchPeers

MIB = 1 << 20
COPY_BYTES = 1024 * MIB
SMALLEST_SET = 256 * MIB
RUNS = 9  # replays a side has within a round, taken in turn


class Timed(Protocol):
    """Something whose calls are timed by the device's own events."""

    def milliseconds(self) -> float:
        """Of one call."""


def find_module() -> tuple[Any, str]:
    """Our module for the device, or None and why it cannot be used."""
    try:
        cuda = importlib.import_module("ptmo_secure._cuda")
    except ModuleNotFoundError:
        return None, "this Python has no module ptmo_secure._cuda"
    except ImportError as error:  # it is there, and a library that it needs is not
        return None, str(error)
    count, why = cuda.devices()
    return (cuda, "") if count > 0 else (None, why or "no device is visible")


@dataclass
class Device:
    """What the measurements share."""

    cuda: Any  # the module ptmo_secure._cuda
    peers: TorchPeers | str  # or why there are none
    rounds: int = ROUNDS
    runs: int = RUNS
    copy_bytes: int = COPY_BYTES
    ceilings: dict[str, float] = field(default_factory=dict)

    @cached_property
    def working_set(self) -> int:
        """Bytes that calls take in turn: several times the device's last cache."""
        return max(SMALLEST_SET, 4 * int(self.cuda.cache_bytes()))

    @cached_property
    def copy(self) -> Any:
        """The copy that measures the device's bandwidth; kept, so that every round has it."""
        return self.cuda.CopyBench(self.copy_bytes)

    def matmul(self, layer: str, call: str, *, group: int = 128, tokens: int = 1) -> Any:
        """A bench of an INT4 product of a layer's shape, as the decoder runs it.

        Weights have scales and mins. W_down's input, the long one, has two planes of 8 bits, that
        of W_gate and W_up has one (csrc/cuda/device_decoder.cpp).
        """
        rows, cols = (int(size) for size in layer.split("x"))
        return self.cuda.MatmulBench(
            type="int4",
            rows=rows,
            cols=cols,
            group=group,
            tokens=tokens,
            planes=2 if cols > rows else 1,
            call=call,
            working_set_bytes=self.working_set,
        )

    def attention(self, element: str, context: int, **how: object) -> Any:
        """A bench of decode attention of a 7-8B model."""
        return self.cuda.AttentionBench(
            element=element,
            n_heads=32,
            n_kv_heads=8,
            dim=128,
            context=context,
            working_set_bytes=self.working_set,
            **how,
        )

    def compare(self, a: Callable[[], float], b: Callable[[], float], /, **names: str) -> Measured:
        """Two sides in turn. `names` says how `a` and `b` are called in the detail."""
        taken = compare(a, b, self.rounds, self.runs)
        figures = {"a": taken.a, "b": taken.b}
        sides = {name: statistics.median(figures[side]) for side, name in names.items()}
        return Measured(taken.ratio, taken.ratios, sides)

    def measure_ceilings(self) -> None:
        """Copy bandwidth, and torch's rate of bf16 products where it is there."""
        turns = range(self.rounds * self.runs)
        self.ceilings["copy_GB_per_s"] = statistics.median(gb_per_s(self.copy) for _ in turns)
        if isinstance(self.peers, TorchPeers):
            product = self.peers.square_product()
            rate = statistics.median(product.flops / product.milliseconds() for _ in turns)
            self.ceilings["bf16_TFLOP_per_s"] = rate / 1e9


def microseconds(bench: Timed) -> float:
    """Of one call."""
    return 1e3 * bench.milliseconds()


def gb_per_s(bench: Any) -> float:
    """Bytes that a call must move, a second."""
    return float(bench.call_bytes) / bench.milliseconds() / 1e6
