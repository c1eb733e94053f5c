"""Attention over the paged cache, plain and sealed, and the keystream that opens sealed tiles."""

import mmap
from dataclasses import dataclass
from typing import Any

import pytest
from kernel_timing import time_kernel
from shapes import MODELS, ModelShape

from ptmo_secure import _native

PAGE_ROWS = 32
KV_TYPES = {
    "int8": _native.KvType.int8,
    "int4": _native.KvType.int4,
    "fp16": _native.KvType.fp16,
    "fp32": _native.KvType.fp32,
}
MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
SEALED = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


@dataclass(frozen=True, slots=True)
class Case:
    """What attends to what."""

    model: ModelShape
    kv: str
    sealed: bool
    context: int
    tokens: int
    threads: int


def run(benchmark: Any, case: Case) -> None:
    model, context = case.model, case.context
    layout = _native.PageLayout(
        model.n_layers, model.n_kv_heads, model.head_dim, PAGE_ROWS, KV_TYPES[case.kv]
    )
    pages = _native.PageArena(layout, -(-context // PAGE_ROWS))
    session = sealed_session(pages) if case.sealed else _native.KvSession(pages, 1)
    bench = _native.AttentionBench(session, model.n_heads, context, case.tokens, case.threads)
    macs = 2 * model.n_layers * model.n_heads * model.head_dim * context * case.tokens
    time_kernel(benchmark, bench, case.threads, macs)


def sealed_session(pages: _native.PageArena) -> _native.KvSession:
    """A session under a key that is no secret: what the TEE does, without one."""
    secrets = _native.SecretArena(4096, False)
    slot = secrets.take_slot()
    with mmap.mmap(secrets.fd, secrets.size) as view:
        view[slot : slot + 16] = bytes(range(1, 17))
    return _native.KvSession(pages, 1, 1, secrets, slot)


@pytest.mark.parametrize("context", [1024, 4096])
@pytest.mark.parametrize("kv", KV_TYPES)
@SEALED
@MODEL
def test_attention_decode(
    benchmark: Any, model: ModelShape, kv: str, sealed: bool, context: int, threads: int
) -> None:
    run(benchmark, Case(model, kv, sealed, context, tokens=1, threads=threads))


@SEALED
@MODEL
def test_attention_prefill(benchmark: Any, model: ModelShape, sealed: bool, threads: int) -> None:
    run(benchmark, Case(model, "int8", sealed, context=1024, tokens=128, threads=threads))


@pytest.mark.parametrize("row_bytes", [32, 64, 128, 256], ids=lambda size: f"{size}B-rows")
@pytest.mark.parametrize("level", _native.aes_levels())
def test_keystream(benchmark: Any, level: str, row_bytes: int) -> None:
    time_kernel(benchmark, _native.KeystreamBench(PAGE_ROWS, row_bytes, level), threads=1)
