"""A Llama-family model read from a GGUF file, one tensor at a time.

Two things differ from the file. llama.cpp's converter reorders the rows of W_q and W_k of
architecture "llama" so that the two elements of a rotary pair are neighbours
(convert_hf_to_gguf.py, `LlamaModel.permute`); the importer moves them back to the half-split
order of Hugging Face and of this engine. And block formats the kernels do not know are
quantised anew (`ggml_blocks.requantize`).
"""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptmo_secure.engine.ggml_blocks import (
    FLOAT_KINDS,
    REQUANTISED_KINDS,
    UNPACKED_KINDS,
    Int4Quantizer,
    is_finite,
    requantize,
    unpack_blocks,
    unpack_float,
)
from ptmo_secure.engine.gguf_file import GgufFile
from ptmo_secure.engine.model_config import LlamaConfig, read_config
from ptmo_secure.engine.rotary import local_inv_freq, read_inv_freq
from ptmo_secure.engine.tensors import FloatTensor, Int4Tensor, Int8Tensor
from ptmo_secure.errors import EngineError, ModelFormatError

__all__ = ["LlamaConfig", "ModelSource"]

_TOP_NAMES = {
    "embed": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
}
_LAYER_NAMES = {
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "o": "attn_output.weight",
    "attn_post_norm": "post_attention_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "ffn_post_norm": "post_ffw_norm.weight",
}
_ROPE_FREQS = "rope_freqs.weight"
_PRECOMPUTED = ("rotary_emb.inv_freq", "attn_rot_embd")  # in old files; follow from the metadata


@dataclass(frozen=True, slots=True)
class _Entry:
    file_name: str
    shape: tuple[int, ...]


class ModelSource:
    """The weights and settings of a model file.

    Args:
        path: a GGUF file of architecture "llama" (Llama, SmolLM2, Mistral), "qwen2", "qwen3" or
            "gemma3".
        quantize_int4: replaces the native INT4 quantiser (tests).
        content: the file's bytes and their SHA-256, where they do not lie in `path` in the clear.

    Attributes:
        path: the file.
        config: the model's dimensions.
        inv_freq: float32 [head_dim/2], rotary frequencies in rad/token, scaling applied.
        inv_freq_local: the same of local layers, None where the model has none.
        metadata: the file's metadata (tokenizer, chat template).

    Raises:
        InputError: the file cannot be read.
        ModelFormatError: it is damaged, or not a model this engine can run.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        quantize_int4: Int4Quantizer | None = None,
        content: tuple[mmap.mmap, bytes] | None = None,
    ) -> None:
        self.path = Path(path)
        self._quantize_int4 = quantize_int4
        self._file = GgufFile(path, content and content[0])
        self._sha256: bytes | None = content and content[1]
        try:
            self.metadata: dict[str, object] = self._file.metadata
            shapes = {name: info.shape for name, info in self._file.tensors.items()}
            self.config: LlamaConfig = read_config(self.metadata, shapes, str(self.path))
            self._entries: Mapping[str, _Entry] = _expected_tensors(self.config)
            self._check_tensors()
            factors = self._read(_ROPE_FREQS) if _ROPE_FREQS in shapes else None
            self.inv_freq: np.ndarray = read_inv_freq(
                self.metadata, self.config, factors, str(self.path)
            )
            local = any(self.config.local_layers)
            self.inv_freq_local: np.ndarray | None = local_inv_freq(self.config) if local else None
        except BaseException:
            self._file.close()
            raise

    def tensor_names(self) -> list[str]:
        """Return the engine's names: "embed", "layers.0.attn_norm", ... in forward order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, [out, in] or [n], without reading it."""
        return self._entry(name).shape

    def tensor(self, name: str) -> Int4Tensor | Int8Tensor | FloatTensor:
        """Read one tensor; nothing is cached.

        Returns:
            Q4_0 and Q4_1 as `Int4Tensor`, Q5_0 and Q8_0 as `Int8Tensor`, bit for bit; Q4_K as
            `Int4Tensor` with its scales rounded to float16; F16, F32 and (widened) BF16 as
            `FloatTensor`; other kinds re-quantised, Q2_K and Q3_K to INT4 ("embed" and "head": to
            INT8), the rest to INT8. Norms and biases are float32. Gemma's norms are the factor
            itself: its converter has added the 1 of (1 + weight).

        Raises:
            ModelFormatError: a scale or weight of the tensor is not finite.
            EngineError: there is no such tensor, or the native quantiser is missing.
        """
        entry = self._entry(name)
        tensor = self._read(entry.file_name, to_int8=name in ("embed", "head"))
        role = name.rpartition(".")[2]
        if self.config.architecture == "llama" and role in ("q", "k", "q_bias", "k_bias"):
            heads = self.config.n_heads if role.startswith("q") else self.config.n_kv_heads
            return tensor.take_rows(half_split_rows(heads, self.config.head_dim))
        return tensor

    def layer_inv_freq(self, layer: int) -> np.ndarray:
        """Return the rotary frequencies that hold in a layer, float32 [head_dim/2]."""
        if self.inv_freq_local is not None and self.config.is_local(layer):
            return self.inv_freq_local
        return self.inv_freq

    def release(self) -> None:
        """Let the file's pages leave memory; tensors can still be read."""
        self._file.release()

    def sha256(self) -> bytes:
        """Return the model file's SHA-256, 32 bytes; the file is read once and remembered."""
        if self._sha256 is None:
            self._sha256 = self._file.sha256()
        return self._sha256

    def close(self) -> None:
        """Unmap the file."""
        self._file.close()

    def __enter__(self) -> "ModelSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise EngineError(f"{self.path}: the model has no tensor {name!r}")
        return entry

    def _read(self, file_name: str, to_int8: bool = False) -> Int4Tensor | Int8Tensor | FloatTensor:
        info = self._file.tensors[file_name]
        raw = self._file.data(file_name)
        tensor: Int4Tensor | Int8Tensor | FloatTensor
        if info.type in FLOAT_KINDS:
            tensor = unpack_float(raw, info.type, info.shape)
            if len(info.shape) == 1:
                tensor = FloatTensor(tensor.dequantize())
        elif info.type in UNPACKED_KINDS:
            tensor = unpack_blocks(raw, info.type, (info.shape[0], info.shape[1]))
        else:
            shape = (info.shape[0], info.shape[1])
            tensor = requantize(raw, info.type, shape, to_int8, self._quantize_int4)
        if not is_finite(tensor):
            raise ModelFormatError(f"{self.path}: tensor {file_name!r}: a weight is not finite")
        return tensor

    def _check_tensors(self) -> None:
        """Every expected tensor is there, in a known format and shape, and no other."""
        infos = self._file.tensors
        wanted = {entry.file_name: entry.shape for entry in self._entries.values()}
        if _ROPE_FREQS in infos and self.config.architecture == "llama":
            wanted[_ROPE_FREQS] = (self.config.head_dim // 2,)
        for name, shape in wanted.items():
            info = infos.get(name)
            if info is None:
                raise ModelFormatError(f"{self.path}: tensor {name!r} is missing")
            if info.shape != shape:
                raise ModelFormatError(
                    f"{self.path}: tensor {name!r} has shape {list(info.shape)}, "
                    f"the model's settings ask for {list(shape)}"
                )
            known = FLOAT_KINDS if len(shape) == 1 else _MATRIX_KINDS
            if info.type not in known:
                raise ModelFormatError(
                    f"{self.path}: tensor {name!r}: format {info.type.name} is not supported here"
                )
        for name in infos:
            if name not in wanted and not any(old in name for old in _PRECOMPUTED):
                raise ModelFormatError(
                    f"{self.path}: tensor {name!a} is not part of a model of architecture "
                    f"{self.config.architecture!r} as this engine runs it"
                )


_MATRIX_KINDS = (*FLOAT_KINDS, *UNPACKED_KINDS, *REQUANTISED_KINDS)


def half_split_rows(n_heads: int, head_dim: int) -> np.ndarray:
    """Return the row gather that undoes llama.cpp's interleaving of rotary pairs.

    The file's row (h, 2j + s) is the half-split row (h, s * head_dim/2 + j), s in {0, 1}.

    Returns:
        int64 [n_heads * head_dim]: half_split[i] = file[rows[i]].
    """
    rows: np.ndarray = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    gather: np.ndarray = rows.swapaxes(1, 2).flatten()
    return gather


def _expected_tensors(config: LlamaConfig) -> dict[str, _Entry]:
    q_rows = config.n_heads * config.head_dim
    kv_rows = config.n_kv_heads * config.head_dim
    d_model, d_ff = config.d_model, config.d_ff
    layer_shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d_model,),
        "q": (q_rows, d_model),
        "k": (kv_rows, d_model),
        "v": (kv_rows, d_model),
        "q_bias": (q_rows,),
        "k_bias": (kv_rows,),
        "v_bias": (kv_rows,),
        "q_norm": (config.head_dim,),
        "k_norm": (config.head_dim,),
        "o": (d_model, q_rows),
        "attn_post_norm": (d_model,),
        "ffn_norm": (d_model,),
        "gate": (d_ff, d_model),
        "up": (d_ff, d_model),
        "down": (d_model, d_ff),
        "ffn_post_norm": (d_model,),
    }
    absent = set() if config.qkv_bias else {"q_bias", "k_bias", "v_bias"}
    absent |= set() if config.qk_norm else {"q_norm", "k_norm"}
    absent |= set() if config.post_norms else {"attn_post_norm", "ffn_post_norm"}
    entries = {"embed": _Entry(_TOP_NAMES["embed"], (config.vocab_size, d_model))}
    for layer in range(config.n_layers):
        for role, shape in layer_shapes.items():
            if role in absent:
                continue
            entries[f"layers.{layer}.{role}"] = _Entry(f"blk.{layer}.{_LAYER_NAMES[role]}", shape)
    entries["final_norm"] = _Entry(_TOP_NAMES["final_norm"], (d_model,))
    if not config.tied_head:
        entries["head"] = _Entry(_TOP_NAMES["head"], (config.vocab_size, d_model))
    return entries
