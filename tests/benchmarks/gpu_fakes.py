"""A device of known speed and a torch that is slower, for the tests of bench_gpu.py."""

from types import ModuleType
from typing import Any

from gpu import peers


class FakeBench:
    """Calls of a known time over known bytes."""

    def __init__(self, milliseconds: float, call_bytes: int = 0, flops: int = 0) -> None:
        self._milliseconds = milliseconds
        self.call_bytes = call_bytes
        self.flops = flops

    def milliseconds(self) -> float:
        return self._milliseconds


class FakeCuda(ModuleType):
    """The module `_cuda` of a device that takes 1 ms for 1 GB, and keeps what it is asked for."""

    def __init__(self, count: int = 1) -> None:
        super().__init__("ptmo_secure._cuda")
        self.count = count
        self.matmuls: list[dict[str, Any]] = []
        self.attentions: list[dict[str, Any]] = []

    def devices(self) -> tuple[int, str]:
        return self.count, "" if self.count else "no CUDA-capable device is detected"

    def cache_bytes(self) -> int:
        return 100 << 20

    def device_name(self) -> str:
        return "Fake H1"

    def CopyBench(self, bytes: int) -> FakeBench:
        return FakeBench(1.0, 1_000_000_000)

    def MatmulBench(self, **shape: Any) -> FakeBench:
        self.matmuls.append(shape)
        slower = {"matmul": 1.0, "input-matmul": 1.25, "fused-update": 1.3, "unfused-update": 2.5}
        return FakeBench(slower[shape["call"]], 700_000_000)

    def AttentionBench(self, **shape: Any) -> FakeBench:
        self.attentions.append(shape)
        cost = 2.0 if shape["element"] == "fp16" else 1.0
        cost *= 1.2 if shape.get("sealed") else 1.0
        return FakeBench(cost + {"per-head": 0.02}.get(shape.get("angles"), 0))


class FakePeers(peers.TorchPeers):
    """torch's kernels at three times our time."""

    def linear(self, layer: str, tokens: int, working_set: int) -> FakeBench:
        return FakeBench(3.0)

    def int4(self, layer: str, group: int, working_set: int) -> FakeBench:
        raise RuntimeError("not here\nat all")

    def square_product(self) -> FakeBench:
        return FakeBench(1.0, flops=10**12)
