"""The public half of every attack: weights anyone can download, and the layer-0 value dictionary.

At layer 0 a value row is a function of its token alone, v(t) = W_v . (rmsnorm(s E[t]) * g) + b:
no position enters (RoPE turns Q and K only) and no other token does. One matrix product over the
vocabulary therefore lists every row the cache can ever hold at that layer.
"""

import hashlib
import time
from typing import Protocol

import numpy as np

from ptmo_secure.attacks.kv.pages import FloatArray, IdArray
from ptmo_secure.engine.tensors import WeightTensor
from ptmo_secure.errors import InputError

CHUNK_ROWS = 4096  # embedding rows dequantised at a time: 4096 x 4096 x 4 bytes = 64 MiB at most


class ModelShape(Protocol):
    """The fields an attack reads of `LlamaConfig`."""

    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def rms_eps(self) -> float: ...
    @property
    def embed_scale(self) -> float: ...


class WeightSource(Protocol):
    """A model file read from disk (`ModelSource`): public, untouched by any shield."""

    @property
    def config(self) -> ModelShape: ...
    def tensor_names(self) -> list[str]: ...
    def tensor(self, name: str, /) -> WeightTensor: ...


class PublicModel:
    """A public model as an attacker prepares it: the value row of every token, computed once.

    Args:
        source: the model file. Only "embed", "layers.0.attn_norm", "layers.0.v" and
            "layers.0.v_bias" are read.
    """

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._table: FloatArray | None = None
        self._ids: IdArray | None = None
        self.build_seconds = 0.0

    @property
    def vocab_size(self) -> int:
        """Number of token ids, V."""
        return self._source.config.vocab_size

    @property
    def n_kv_heads(self) -> int:
        """KV heads of a layer."""
        return self._source.config.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Elements of one head's row."""
        return self._source.config.head_dim

    @property
    def value_rows(self) -> FloatArray:
        """v(t) at layer 0 for every distinguishable token: [D, n_kv_heads, head_dim], D <= V."""
        return self._tables()[0]

    @property
    def token_ids(self) -> IdArray:
        """Token id of each entry of `value_rows`, ascending: [D].

        Tokens with the same embedding cannot be told apart by any cache row, at any layer; the
        lowest id stands for them all, so guesses are the same on every machine.
        """
        return self._tables()[1]

    def rows_of(self, token_ids: IdArray) -> FloatArray:
        """v(t) at layer 0 of the given tokens, [T] -> [T, n_kv_heads, head_dim]."""
        embed = self._source.tensor("embed")
        return self._project(embed.take_rows(token_ids).dequantize(), *self._projection())

    def _projection(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The norm gain g [d_model], W_v^T [d_model, n_kv * head_dim] and the bias b."""
        source = self._source
        gain = source.tensor("layers.0.attn_norm").dequantize().reshape(-1)
        weight = np.ascontiguousarray(source.tensor("layers.0.v").dequantize().T)
        width = self.n_kv_heads * self.head_dim
        if weight.shape != (source.config.d_model, width):
            raise InputError(
                f"layers.0.v is {weight.shape[1]} x {weight.shape[0]}, "
                f"not {width} x {source.config.d_model}"
            )
        bias = np.zeros(width, np.float32)
        if "layers.0.v_bias" in source.tensor_names():
            bias = source.tensor("layers.0.v_bias").dequantize().reshape(-1)
        return gain, weight, bias

    def _project(
        self, embeddings: FloatArray, gain: FloatArray, weight: FloatArray, bias: FloatArray
    ) -> FloatArray:
        shape = self._source.config
        x = embeddings * np.float32(shape.embed_scale)
        mean_square = np.mean(np.square(x, dtype=np.float32), axis=1, keepdims=True)
        normed = x / np.sqrt(mean_square + shape.rms_eps) * gain
        rows = normed.astype(np.float32) @ weight + bias
        return np.asarray(rows, np.float32).reshape(-1, self.n_kv_heads, self.head_dim)

    def _tables(self) -> tuple[FloatArray, IdArray]:
        if self._table is None or self._ids is None:
            started = time.perf_counter()
            self._table, self._ids = self._build()
            self.build_seconds = time.perf_counter() - started
        return self._table, self._ids

    def _build(self) -> tuple[FloatArray, IdArray]:
        embed = self._source.tensor("embed")
        projection = self._projection()
        seen: set[bytes] = set()
        tables, kept = [], []
        for start in range(0, self.vocab_size, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, self.vocab_size)
            chunk = embed.take_rows(np.arange(start, stop)).dequantize()
            fresh = []
            for row in range(len(chunk)):
                digest = hashlib.blake2b(chunk[row].tobytes(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    fresh.append(row)
            index = np.asarray(fresh, dtype=np.int64)
            tables.append(self._project(chunk[index], *projection))
            kept.append(index + start)
        return np.concatenate(tables), np.concatenate(kept)
