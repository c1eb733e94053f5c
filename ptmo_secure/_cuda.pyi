"""Types of the CUDA engine's module (csrc/bindings/cuda_module.cpp), built where there is nvcc."""

from ptmo_secure._native import ModelConfig, PageArena, PageLayout, _Decoder

def devices() -> tuple[int, str]: ...

class DevicePages(PageArena):
    def __init__(self, layout: PageLayout, capacity_pages: int) -> None: ...

class Decoder(_Decoder):
    def __init__(self, config: ModelConfig, pages: DevicePages, chunk_tokens: int) -> None: ...
