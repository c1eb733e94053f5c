"""Types of the CUDA engine's module (csrc/bindings/cuda_module.cpp), built where there is nvcc."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptmo_secure._native import (
    AdapterSet,
    KvSession,
    ModelConfig,
    PageArena,
    PageLayout,
    _Decoder,
    _OnBuffer,
)

architectures: str

def devices() -> tuple[int, str]: ...
def device_name() -> str: ...

class DevicePages(PageArena):
    def __init__(self, layout: PageLayout, capacity_pages: int) -> None: ...

class Decoder(_Decoder):
    def __init__(self, config: ModelConfig, pages: DevicePages, chunk_tokens: int) -> None: ...
    def forward_batch_into(
        self,
        logits: Any,
        sessions: list[KvSession],
        token_ids: list[npt.NDArray[np.int32]],
        all_logits: bool = False,
        attention_buffer: Any = None,
        restore: _OnBuffer = None,
        adapters: Sequence[AdapterSet | None] = (),
    ) -> None: ...
    @property
    def graph_launches(self) -> int: ...

class DeviceTensor:
    def __init__(self, shape: Sequence[int]) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    def __dlpack__(self, *args: Any, **kwargs: Any) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def numpy(self) -> npt.NDArray[Any]: ...

class CopyBench:
    def __init__(self, bytes: int) -> None: ...
    def milliseconds(self) -> float: ...
    @property
    def call_bytes(self) -> int: ...

def to_device(values: npt.NDArray[Any]) -> DeviceTensor: ...
def read_ids(token_ids: Any) -> npt.NDArray[Any]: ...
def sample(logits: Any, draws: Sequence[tuple[float, int, float, float]]) -> list[int]: ...
