"""Loads a model's parameters into the native decoder, through the TEE where a shield asks for it.

The TEE permutes rows of opaque bytes and nothing else. So W_q, W_k and W_v go in as they are (one
row of codes, scales and mins each), and W_o goes in transposed with one byte or float per weight:
its permutation moves input features inside their 32-wide blocks, whose scales therefore stay.
QK-norm weights go in once per KV head, whose query heads share its permutation of rotary pairs.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import LlamaConfig, ModelSource
from ptmo_secure.engine.low_rank import LowRankTensors
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.tensors import SUB_BLOCK, FloatTensor, Int4Tensor, Int8Tensor, WeightTensor
from tee_sim.client import KvLayout, TeeClient

Progress = Callable[[int, int], None]  # tensors done, tensors in all
_Role = Literal["q", "k", "v"]
_ROLES: tuple[_Role, ...] = ("q", "k", "v")
_QK_NORMS = ("q_norm", "k_norm")
_MAX_SHIFT = 10  # a QK-norm weight is moved by 2^-10 to 2^10


def kv_layout(model: LlamaConfig, config: EngineConfig) -> KvLayout:
    """Return the sizes the TEE draws permutations for.

    Folded into W_o, the value permutation must stay inside a quantisation block and inside a
    head; restored by the TEE it may be any permutation of the head.
    """
    block = model.head_dim if config.restores_in_tee else math.gcd(model.head_dim, SUB_BLOCK)
    return KvLayout(
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        rotary_dim=model.head_dim,
        v_block=block,
    )


def load_weights(
    decoder: NativeDecoder, source: ModelSource, progress: Progress | None = None
) -> None:
    """Pack every parameter of `source` into the decoder, as the file holds them.

    Raises:
        ModelFormatError: a tensor is damaged.
        ValueError: a tensor has the wrong shape for the model.
    """
    names = source.tensor_names()
    for done, name in enumerate(names):
        if not name.endswith(_QK_NORMS):
            set_tensor(decoder, name, source.tensor(name))
            source.release()
        if progress is not None:
            progress(done + 1, len(names))
    for layer in range(source.config.n_layers if source.config.qk_norm else 0):
        for role, norm in balanced_qk_norms(source, layer).items():
            set_tensor(decoder, f"layers.{layer}.{role}", norm)
    decoder.set_float("inv_freq", source.inv_freq)
    if source.inv_freq_local is not None:
        decoder.set_float("inv_freq_local", source.inv_freq_local)


def permute_weights(
    decoder: NativeDecoder,
    source: ModelSource,
    tee: TeeClient,
    model: int,
    config: EngineConfig,
    progress: Progress | None = None,
) -> None:
    """Replace the attention weights by the ones the TEE permuted (KV-Shield, eq. 2).

    Security: the engine's memory then holds permuted copies of public weights and rotary
    frequencies; whoever reads them (A2) or the activations (A1) learns the permutation.

    Args:
        decoder: already loaded with the plain weights.
        source: the public model.
        tee: client of the core process.
        model: its handle from `open_model(kv_layout(...))`.
        config: `restore` decides whether W_o is folded.
        progress: called after every layer.
    """
    shape = source.config
    for layer in range(shape.n_layers):
        prefix = f"layers.{layer}."
        for role in _ROLES:
            weight = source.tensor(prefix + role)
            set_tensor(decoder, prefix + role, _gather_rows(tee, model, layer, role, weight))
            if shape.qkv_bias:
                bias = source.tensor(f"{prefix}{role}_bias")
                moved = _gather_rows(tee, model, layer, role, bias)
                set_tensor(decoder, f"{prefix}{role}_bias", moved)
        for name, norm in balanced_qk_norms(source, layer).items() if shape.qk_norm else ():
            set_tensor(decoder, prefix + name, _gather_rows(tee, model, layer, "k", norm))
        frequencies = np.tile(source.layer_inv_freq(layer), shape.n_kv_heads).astype("<f4")
        moved_freq = tee.permute_weights(model, layer, "freq", frequencies.tobytes(), 4)
        decoder.set_float(prefix + "inv_freq", np.frombuffer(moved_freq, "<f4"))
        if config.restore == "folded":
            folded = _gather_columns(tee, model, layer, source.tensor(prefix + "o"))
            set_tensor(decoder, prefix + "o", folded)
        source.release()
        if progress is not None:
            progress(layer + 1, shape.n_layers)


def permute_low_rank(
    tensors: LowRankTensors,
    role: str,
    layer: int,
    tee: TeeClient,
    model: int,
    config: EngineConfig,
) -> LowRankTensors:
    """Return an adapter's update as the permuted matrix needs it: B's rows of q, k and v move.

    Where W_o is folded, the columns of its A move too. Codes travel with their scales, and columns
    stay in their 32-wide blocks: what was quantised before is bit for bit what it was.
    """
    if role in _ROLES:
        return replace(tensors, b=_gather_rows(tee, model, layer, role, tensors.b))
    if role == "o" and config.restore == "folded":
        return replace(tensors, a=_gather_columns(tee, model, layer, tensors.a))
    return tensors


def set_tensor(decoder: NativeDecoder, name: str, tensor: WeightTensor) -> None:
    """Hand one tensor to the decoder, which packs a copy."""
    if isinstance(tensor, Int4Tensor):
        decoder.set_int4(name, tensor.codes, tensor.scales, tensor.mins, tensor.group)
    elif isinstance(tensor, Int8Tensor):
        decoder.set_int8(name, tensor.codes, tensor.scales)
    else:
        decoder.set_float(name, tensor.data)


def balanced_qk_norms(source: ModelSource, layer: int) -> dict[str, FloatTensor]:
    """Return a layer's QK-norm weights once per KV head, [n_kv_heads * head_dim], balanced.

    A cached K row has one scale, so channels that its norm makes large cost the others their
    precision. A power of two per rotary pair therefore moves from k_norm to q_norm: K evens out,
    and q.k stays what it was, bit for bit in float arithmetic (cf. SmoothQuant, arXiv 2211.10438).
    """
    q_norm, k_norm = (source.tensor(f"layers.{layer}.{role}").dequantize() for role in _QK_NORMS)
    pairs = np.sqrt(np.mean(np.square(k_norm.reshape(2, -1)), axis=0))
    power = np.rint(np.log2(np.clip(pairs, 2.0**-_MAX_SHIFT, 2.0**_MAX_SHIFT)))
    factor = np.exp2(np.tile(power, 2)).astype(np.float32)
    repeats = source.config.n_kv_heads
    return {
        "q_norm": FloatTensor(np.tile(q_norm * factor, repeats)),
        "k_norm": FloatTensor(np.tile(k_norm / factor, repeats)),
    }


def _gather_rows(
    tee: TeeClient, model: int, layer: int, role: _Role, tensor: WeightTensor
) -> WeightTensor:
    """Permute a tensor's rows: all of a row's bytes travel side by side."""
    if isinstance(tensor, Int4Tensor):
        parts = [tensor.codes, tensor.scales, tensor.mins]
    elif isinstance(tensor, Int8Tensor):
        parts = [tensor.codes, tensor.scales]
    else:
        parts = [tensor.data.reshape(len(tensor.data), -1)]
    raw = [np.ascontiguousarray(p).view(np.uint8) for p in parts]
    table = np.concatenate(raw, axis=1)
    moved = tee.permute_weights(model, layer, role, table.tobytes(), table.shape[1])
    rows = np.frombuffer(moved, np.uint8).reshape(table.shape)
    ends = np.cumsum([r.shape[1] for r in raw])
    pieces = [
        np.ascontiguousarray(rows[:, end - r.shape[1] : end]).view(p.dtype)
        for p, r, end in zip(parts, raw, ends, strict=True)
    ]
    if isinstance(tensor, Int4Tensor):
        return replace(tensor, codes=pieces[0], scales=pieces[1], mins=pieces[2])
    if isinstance(tensor, Int8Tensor):
        return replace(tensor, codes=pieces[0], scales=pieces[1])
    return FloatTensor(pieces[0].reshape(tensor.data.shape))


def _gather_columns(tee: TeeClient, model: int, layer: int, tensor: WeightTensor) -> WeightTensor:
    """Permute W_o's columns (input features); scales stay, since the blocks do."""
    if isinstance(tensor, Int4Tensor):
        codes = _unpack_nibbles(tensor.codes)
        return replace(tensor, codes=_pack_nibbles(_gather(tee, model, layer, codes)))
    if isinstance(tensor, Int8Tensor):
        return replace(tensor, codes=_gather(tee, model, layer, tensor.codes))
    return FloatTensor(_gather(tee, model, layer, tensor.data))


def _gather(
    tee: TeeClient, model: int, layer: int, matrix: npt.NDArray[np.generic]
) -> npt.NDArray[np.generic]:
    """Permute the columns of a [rows, columns] array by sending its transpose."""
    turned = np.ascontiguousarray(matrix.T)
    row_bytes = turned.shape[1] * turned.itemsize
    moved = tee.permute_weights(model, layer, "o", turned.tobytes(), row_bytes)
    return np.ascontiguousarray(np.frombuffer(moved, turned.dtype).reshape(turned.shape).T)


def _unpack_nibbles(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[N, K/2] packed sub-blocks -> [N, K] one code a byte."""
    blocks = codes.reshape(len(codes), -1, SUB_BLOCK // 2)
    return np.concatenate([blocks & 0x0F, blocks >> 4], axis=2).reshape(len(codes), -1)


def _pack_nibbles(codes: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Inverse of `_unpack_nibbles`."""
    blocks = codes.astype(np.uint8).reshape(len(codes), -1, 2, SUB_BLOCK // 2)
    packed: npt.NDArray[np.uint8] = blocks[:, :, 0] | blocks[:, :, 1] << np.uint8(4)
    return packed.reshape(len(codes), -1)
