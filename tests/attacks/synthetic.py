"""A small public model and a fake victim engine with real `DeviceDump`s, in plain NumPy."""

import struct
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from ptmo_secure.attacks.kv import Cell, PageLayout, StolenMemory
from ptmo_secure.engine.dump import DeviceDump, DumpLayout
from ptmo_secure.engine.tensors import FloatTensor
from tests.sealed_dump import crypt_dump

VOCAB, D_MODEL, N_KV, HEAD_DIM, LAYERS, ROWS = 640, 48, 2, 32, 2, 16
DTYPES = {"int8": np.dtype("i1"), "fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
TEMPLATE = ([0, 1, 2, 3], [4, 5])  # ids in front of and behind every user text
FIRST_USER_ID = 6


@dataclass(frozen=True)
class Shape:
    n_kv_heads: int = N_KV
    head_dim: int = HEAD_DIM
    d_model: int = D_MODEL
    vocab_size: int = VOCAB
    rms_eps: float = 1e-5
    embed_scale: float = 1.0


class Source:
    """A model file of random weights, with a value bias."""

    def __init__(self, seed: int = 0, embed: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal((VOCAB, D_MODEL)).astype(np.float32)
        self.embed = drawn if embed is None else embed
        self.gain = rng.uniform(0.5, 1.5, D_MODEL).astype(np.float32)
        self.v = (rng.standard_normal((N_KV * HEAD_DIM, D_MODEL)) * 0.1).astype(np.float32)
        self.bias = (rng.standard_normal(N_KV * HEAD_DIM) * 0.05).astype(np.float32)
        self.config = Shape(vocab_size=len(self.embed))

    def tensor_names(self) -> list[str]:
        return ["embed", "layers.0.attn_norm", "layers.0.v", "layers.0.v_bias"]

    def tensor(self, name: str) -> FloatTensor:
        arrays = (self.embed, self.gain, self.v, self.bias)
        return FloatTensor(dict(zip(self.tensor_names(), arrays, strict=True))[name])

    def values(self, ids: Sequence[int]) -> np.ndarray:
        """v(t) by its definition, in float64: [T, n_kv, head_dim]."""
        rows = []
        for token in ids:
            e = self.embed[token].astype(np.float64)
            normed = e / np.sqrt((e * e).mean() + self.config.rms_eps) * self.gain
            rows.append((self.v.astype(np.float64) @ normed + self.bias).reshape(N_KV, HEAD_DIM))
        return np.stack(rows)


def make_dump(
    values: np.ndarray, kv_dtype: str, session: int = 1, first_seq: int = 1, padding: int = 0
) -> DeviceDump:
    """Pages of one session: `values` [T, n_kv, head_dim] as V of layer 0, noise everywhere else."""
    rng = np.random.default_rng(99)
    pages = b""
    for page, start in enumerate(range(0, len(values), ROWS)):
        rows = values[start : start + ROWS]
        used = len(rows)
        header = (0x4750564B, 2, ROWS, page, session, 7, used, start, session, 0)
        pages += struct.pack("<IHHIIIIIIQ24x", *header)
        numbers = [first_seq + start + i if i < used else 0 for i in range(ROWS)]
        pages += struct.pack(f"<{ROWS}Q", *numbers)
        for layer in range(LAYERS):
            for head in range(N_KV):
                block = rng.standard_normal((2, ROWS, HEAD_DIM))
                if layer == 0:
                    block[1] = 0
                    block[1, :used] = rows[:, head]
                pages += encode_block(block, kv_dtype)
        pages += bytes(padding)
    layout = DumpLayout(LAYERS, N_KV, HEAD_DIM, ROWS, kv_dtype, 0, ())
    data = layout.data_offset + LAYERS * N_KV * layout.head_bytes
    layout = DumpLayout(LAYERS, N_KV, HEAD_DIM, ROWS, kv_dtype, data + padding, ())
    return DeviceDump(pages=pages, layout=layout)


def encode_block(block: np.ndarray, kv_dtype: str) -> bytes:
    """K and V of one head, [2, rows, head_dim], as they stand in a page."""
    if kv_dtype not in ("int8", "int4"):
        return block.astype(DTYPES[kv_dtype]).tobytes()
    scales = np.abs(block).max(axis=2) / (127 if kv_dtype == "int8" else 7)
    codes = np.rint(block / np.where(scales > 0, scales, 1)[:, :, None]).astype("i1")
    if kv_dtype == "int4":
        low, high = np.split((codes + 8).astype("u1"), 2, axis=2)
        codes = low | high << 4
    return codes.tobytes() + scales.T.astype("<f4").tobytes()


def permute_values(values: np.ndarray, seed: int = 5) -> np.ndarray:
    """One secret permutation per head, as KV-Shield stores the rows."""
    rng = np.random.default_rng(seed)
    heads = [values[:, head, rng.permutation(HEAD_DIM)] for head in range(values.shape[1])]
    return np.stack(heads, axis=1)


def steal(dump: DeviceDump) -> StolenMemory:
    return StolenMemory(pages=dump.pages, layout=PageLayout.of(dump.layout))


@dataclass(frozen=True)
class Rendered:
    ids: tuple[int, ...]
    content_mask: list[bool]


class WordTokenizer:
    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(f"w{i}" for i in ids)


class FakeEngine:
    """A victim whose cache holds true layer-0 value rows under one of the shields.

    `key_per_session=False` makes the classic mistake of a stream cipher: one key for every
    session, with sequence numbers that start over.
    """

    def __init__(self, source: Source, cell: Cell, key_per_session: bool = True) -> None:
        self.source, self.cell, self.key_per_session = source, cell, key_per_session
        self.tokenizer = WordTokenizer()
        self.session = 0
        self.ids: list[int] = []

    def render(self, messages: str) -> Rendered:
        """Every word w<id> is a token; another word hashes to one by its letters."""
        words = messages.split()
        user = [
            int(word[1:])
            if word[1:].isdigit()
            else FIRST_USER_ID + sum(map(ord, word)) % (VOCAB - FIRST_USER_ID)
            for word in words
        ]
        before, after = TEMPLATE
        mask = [False] * len(before) + [True] * len(user) + [False] * len(after)
        return Rendered((*before, *user, *after), mask)

    def forward(self, token_ids: Sequence[int]) -> np.ndarray:
        self.session += 1
        self.ids = list(token_ids)
        return np.zeros((len(self.ids), 1), np.float32)

    def reset(self) -> None:
        self.ids = []

    def dump_device_memory(self) -> DeviceDump:
        values = self.source.values(self.ids)
        if "permute" in self.cell.shield:
            values = permute_values(values)
        dump = make_dump(values, self.cell.kv_dtype, session=self.session)
        if "seal" not in self.cell.shield:
            return dump
        return crypt_dump(dump, lambda session, _: self.key(session))

    def key(self, session: int) -> bytes:
        return (session if self.key_per_session else 1).to_bytes(16, "big")


def factory(source: Source, key_per_session: bool = True):
    def open_engine(cell: Cell) -> AbstractContextManager[FakeEngine]:
        return nullcontext(FakeEngine(source, cell, key_per_session))

    return open_engine


def make_prompts(count: int = 8, words: int = 30, seed: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    draws = rng.integers(FIRST_USER_ID, VOCAB, (count, words))
    return [" ".join(f"w{i}" for i in row) for row in draws]
