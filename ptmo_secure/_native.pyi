"""Types of the native module (csrc/bindings)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_OnBuffer: TypeAlias = Callable[[int, int], None] | None  # works on the buffer named before it

class KvType:
    int8: KvType
    int4: KvType
    fp16: KvType
    fp32: KvType

class PageLayout:
    def __init__(
        self, n_layers: int, n_kv_heads: int, head_dim: int, rows: int, type: KvType
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def bytes_per_token(self) -> int: ...
    @property
    def data_offset(self) -> int: ...
    @property
    def head_bytes(self) -> int: ...

class PageArena:
    def __init__(self, layout: PageLayout, capacity_pages: int) -> None: ...
    @property
    def free_pages(self) -> int: ...
    def addresses(self) -> list[int]: ...
    def dump(self) -> bytes: ...

class SecretArena:
    def __init__(self, size: int, allow_memfd_secret: bool = True) -> None: ...
    def close_fd(self) -> None: ...
    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def take_slot(self) -> int: ...
    def free_slot(self, offset: int) -> None: ...

class KvSession:
    def __init__(
        self,
        arena: PageArena,
        session_id: int,
        epoch: int = ...,
        secrets: SecretArena = ...,
        slot: int = ...,
    ) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def sealed(self) -> bool: ...
    @property
    def page_count(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def page_ids(self) -> list[int]: ...
    adapter_tag: int
    def fork(self, session_id: int) -> KvSession: ...
    def rekey(self, epoch: int, slot: int) -> None: ...
    def reorder(self, buffer: memoryview, reorder: _OnBuffer) -> None: ...
    def close(self) -> None: ...
    def append(self, rows: int) -> None: ...
    def write(
        self,
        layer: int,
        head: int,
        position: int,
        k: bytes,
        v: bytes,
        scales: tuple[float, float] = ...,
    ) -> None: ...
    def truncate(self, length: int) -> None: ...

class AuthenticationError(RuntimeError): ...

class PageStorage:
    def __init__(self, secrets: SecretArena, slot: int) -> None: ...
    def close(self) -> None: ...
    def seal(self, record: int, header: bytes, plain: bytes) -> bytes: ...
    def open(self, record: int, header: bytes, sealed: bytes) -> bytes: ...
    @staticmethod
    def sealed_bytes(layout: PageLayout, rows: int) -> int: ...
    def seal_page(
        self,
        session: KvSession,
        page: int,
        header: bytes,
        buffer: memoryview | None = None,
        reorder: _OnBuffer = None,
    ) -> bytes: ...
    def open_page(
        self,
        session: KvSession,
        page: int,
        rows: int,
        header: bytes,
        sealed: bytes,
        buffer: memoryview | None = None,
        reorder: _OnBuffer = None,
    ) -> None: ...

class ModelConfig:
    def __init__(
        self,
        *,
        n_layers: int,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        d_ff: int,
        vocab_size: int,
        context_length: int,
        rms_eps: float,
        attention_scale: float,
        qk_norm: bool,
        post_norms: bool,
        gelu_tanh: bool,
        embed_scale: float,
        sliding_window: int,
        local_layers: Sequence[bool],
    ) -> None: ...

class Linear:
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear
    up: Linear
    down: Linear

class Adapter:
    def __init__(
        self, config: ModelConfig, parts: Sequence[tuple[int, Linear, int, bool]]
    ) -> None: ...
    def set_int8(
        self,
        layer: int,
        linear: Linear,
        a: npt.NDArray[Any],
        a_scales: npt.NDArray[Any],
        b: npt.NDArray[Any],
        b_scales: npt.NDArray[Any],
        scale: float,
    ) -> None: ...
    def set_float(
        self,
        layer: int,
        linear: Linear,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        scale: float,
    ) -> None: ...
    @property
    def bytes(self) -> int: ...

class AdapterSet:
    def __init__(self, adapters: Sequence[Adapter]) -> None: ...

class _Decoder:  # in the stub alone: what decoders have
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

class Decoder(_Decoder):
    def __init__(
        self,
        config: ModelConfig,
        layout: PageLayout,
        threads: int,
        integer_activations: bool,
        chunk_tokens: int,
    ) -> None: ...

class _Bench:  # in the stub alone: what all of them have
    def run(self, repeats: int) -> None: ...
    @property
    def call_bytes(self) -> int: ...
    @property
    def working_set_bytes(self) -> int: ...

class MatmulBench(_Bench):
    def __init__(
        self,
        *,
        type: str,
        rows: int,
        cols: int,
        group: int,
        activation_bits: int,
        tokens: int,
        threads: int,
        working_set_bytes: int,
    ) -> None: ...

class LowRankBench(_Bench):
    def __init__(
        self, *, rows: int, rank: int, tokens: int, threads: int, working_set_bytes: int
    ) -> None: ...

class VectorBench(_Bench):
    def __init__(self, kernel: str, n: int) -> None: ...

class AttentionBench(_Bench):
    def __init__(
        self, session: KvSession, n_heads: int, context: int, tokens: int, threads: int
    ) -> None: ...

class KeystreamBench(_Bench):
    def __init__(self, rows: int, row_bytes: int, level: str) -> None: ...

def read_bandwidth(bytes: int, threads: int, passes: int = 5) -> float: ...
def kernel_level() -> str: ...
def aes_level() -> str: ...
def aes_levels() -> list[str]: ...
def quantize_int4(
    x: npt.NDArray[np.float32], group: int = 32, symmetric: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.float16]]: ...
