"""Turns an `EngineConfig` and a model's dimensions into the native modules' objects."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast

from ptmo_secure import _native
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import LlamaConfig
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure import _cuda  # built where there is a CUDA compiler

NativeDecoder: TypeAlias = "_native.Decoder | _cuda.Decoder"

_KV_TYPES = {
    "int8": _native.KvType.int8,
    "int4": _native.KvType.int4,
    "fp16": _native.KvType.fp16,
    "fp32": _native.KvType.fp32,
}


def check_machine(config: EngineConfig) -> None:
    """Raise InputError when this machine lacks what was asked for.

    That is the device, or the level that PTMO_KERNEL_LEVEL names.
    """
    try:
        _native.kernel_level()
    except ValueError as error:
        raise InputError(str(error)) from None
    if config.device == "cuda":
        cuda_module()


def context_tokens(config: EngineConfig, model: LlamaConfig) -> int:
    """Return the context to serve: the one asked for, or the model's own.

    Raises:
        InputError: more was asked for than the model has.
    """
    wanted = config.context_tokens or model.context_length
    if wanted > model.context_length:
        raise InputError(
            f"context_tokens={wanted} exceeds the model's context of {model.context_length}"
        )
    return wanted


def cache_pages(config: EngineConfig, context_tokens: int) -> int:
    """Return how many KV pages all sessions share.

    Raises:
        InputError: they would not hold one context.
    """
    tokens = config.cache_tokens or context_tokens
    if tokens < context_tokens:
        raise InputError(f"cache_tokens={tokens} do not hold one context of {context_tokens}")
    return -(-tokens // config.rows_per_page)


def page_layout(config: EngineConfig, model: LlamaConfig) -> _native.PageLayout:
    """Return the KV page layout; InputError for a shape pages cannot hold."""
    try:
        return _native.PageLayout(
            model.n_layers,
            model.n_kv_heads,
            model.head_dim,
            config.rows_per_page,
            _KV_TYPES[config.kv_dtype],
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def cuda_module() -> ModuleType:
    """Return the module of the CUDA engine.

    Raises:
        InputError: it was not built, or this process can use no CUDA device.
    """
    try:
        module = importlib.import_module("ptmo_secure._cuda")
    except ImportError as error:
        raise InputError(
            f"device 'cuda': this build has no CUDA engine ({error}); use device='cpu'"
        ) from None
    count, why = module.devices()
    if count == 0:
        raise InputError(f"device 'cuda': no usable CUDA device ({why}); use device='cpu'")
    return module


def page_arena(
    config: EngineConfig, layout: _native.PageLayout, context_tokens: int
) -> _native.PageArena:
    """Return the KV pages, in this process's memory or the device's.

    Raises:
        InputError: they would not hold one context, or there is no such device.
        RuntimeError: there is too little memory.
    """
    pages = cache_pages(config, context_tokens)
    if config.device == "cpu":
        return _native.PageArena(layout, pages)
    return cast("_cuda.DevicePages", cuda_module().DevicePages(layout, pages))


def decoder(
    config: EngineConfig,
    model: LlamaConfig,
    layout: _native.PageLayout,
    pages: _native.PageArena,
    context_tokens: int,
) -> NativeDecoder:
    """Return a decoder without weights; ValueError for a shape the kernels cannot run."""
    shape = _native.ModelConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        d_ff=model.d_ff,
        vocab_size=model.vocab_size,
        context_length=context_tokens,
        rms_eps=model.rms_eps,
        attention_scale=model.attention_scale,
        qk_norm=model.qk_norm,
        post_norms=model.post_norms,
        gelu_tanh=model.activation == "gelu_tanh",
        embed_scale=model.embed_scale,
        sliding_window=model.sliding_window,
        local_layers=list(model.local_layers),
    )
    if config.device == "cuda":
        return cast(
            "_cuda.Decoder", cuda_module().Decoder(shape, pages, config.prefill_chunk_tokens)
        )
    return _native.Decoder(
        shape, layout, config.threads, config.activations == "int8", config.prefill_chunk_tokens
    )
