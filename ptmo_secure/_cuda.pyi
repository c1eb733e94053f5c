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
    _OnBuffer,
)

def devices() -> tuple[int, str]: ...

class DevicePages(PageArena):
    def __init__(self, layout: PageLayout, capacity_pages: int) -> None: ...

class Decoder:
    def __init__(self, config: ModelConfig, pages: DevicePages, chunk_tokens: int) -> None: ...
    def set_int4(
        self,
        name: str,
        codes: npt.NDArray[Any],
        scales: npt.NDArray[Any],
        mins: npt.NDArray[Any],
        group: int,
    ) -> None: ...
    def set_int8(self, name: str, codes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> None: ...
    def set_float(self, name: str, values: npt.NDArray[Any]) -> None: ...
    @property
    def config(self) -> ModelConfig: ...
    def weights_bytes(self) -> int: ...
    def weights_bytes_per_token(self) -> int: ...
    def forward_batch(
        self,
        sessions: list[KvSession],
        token_ids: list[npt.NDArray[np.int32]],
        all_logits: bool = False,
        attention_buffer: Any = None,
        restore: _OnBuffer = None,
        adapters: Sequence[AdapterSet | None] = (),
    ) -> npt.NDArray[np.float32]: ...
