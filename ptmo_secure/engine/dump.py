"""The KV cache as a reader of the device's memory gets it."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import LlamaConfig
from ptmo_secure.errors import InputError

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u2"),
        ("rows_per_page", "<u2"),
        ("page_id", "<u4"),
        ("session", "<u4"),
        ("epoch", "<u4"),
        ("length", "<u4"),
        ("first_position", "<u4"),
        ("family", "<u4"),
        ("adapter_tag", "<u8"),
        ("zeros", "V24"),
    ]
)
MAGIC = 0x4750564B
_ELEMENTS: dict[str, np.dtype[Any]] = {
    "int8": np.dtype("i1"),
    "int4": np.dtype("u1"),  # two codes
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
}


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Codes of rows [..., head_dim / 2]: low nibbles, then high ones, less 8."""
    nibbles = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    codes: npt.NDArray[np.int8] = nibbles.astype(np.int8)
    codes -= 8
    return codes


@dataclass(frozen=True, slots=True)
class DumpLayout:
    """How to read a dump: public facts of the engine's page format (csrc/kv/page_table.h)."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    rows_per_page: int
    kv_dtype: str  # "int8" | "int4" | "fp16" | "fp32"
    page_bytes: int
    addresses: tuple[int, ...]  # virtual address of each page in the engine's process

    @property
    def data_offset(self) -> int:
        """Bytes before layer 0, KV head 0: the header and the sequence numbers."""
        return HEADER.itemsize + 8 * self.rows_per_page

    @property
    def tile_bytes(self) -> int:
        """Bytes of one head's K (or V) rows in a page."""
        elements = self.rows_per_page * self.head_dim // (2 if self.kv_dtype == "int4" else 1)
        return elements * _ELEMENTS[self.kv_dtype].itemsize

    @property
    def has_scales(self) -> bool:
        """Whether a row's K and V have a scale each: INT8 and INT4."""
        return self.kv_dtype in ("int8", "int4")

    @property
    def head_bytes(self) -> int:
        """Bytes of one head in a page: K, V and, for integers, the scales."""
        return 2 * self.tile_bytes + (8 * self.rows_per_page if self.has_scales else 0)


@dataclass(frozen=True, slots=True)
class DeviceDump:
    """Exactly the bytes of the KV pages in use, and where they stood.

    Security: this is the attacker's view (A0, and A2 without the weights). Under `seal` the rows
    are ciphertext and decode to noise.
    """

    pages: bytes  # concatenated
    layout: DumpLayout

    @classmethod
    def of(
        cls,
        pages: _native.PageArena,
        layout: _native.PageLayout,
        model: LlamaConfig,
        config: EngineConfig,
    ) -> "DeviceDump":
        """Read an engine's pages as they stand in memory."""
        return cls(
            pages=pages.dump(),
            layout=DumpLayout(
                n_layers=model.n_layers,
                n_kv_heads=model.n_kv_heads,
                head_dim=model.head_dim,
                rows_per_page=config.rows_per_page,
                kv_dtype=config.kv_dtype,
                page_bytes=layout.page_bytes,
                addresses=tuple(pages.addresses()),
            ),
        )

    def headers(self) -> npt.NDArray[np.void]:
        """Return the header of every page, a structured array [pages]."""
        raw = self._matrix()[:, : HEADER.itemsize]
        return np.ascontiguousarray(raw).view(HEADER)[:, 0]

    def sequence_numbers(self) -> npt.NDArray[np.uint64]:
        """Return the rows' sequence numbers, [pages, rows_per_page]."""
        raw = self._matrix()[:, HEADER.itemsize : self.layout.data_offset]
        return np.ascontiguousarray(raw).view("<u8")

    def sessions(self) -> list[int]:
        """Return the ids of the sessions that have pages here, ascending."""
        return sorted({int(s) for s in self.headers()["session"]})

    def rows(
        self, layer: int, which: Literal["k", "v"], session: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return one layer's rows in token order, as the bytes read.

        Args:
            layer: 0 <= layer < n_layers.
            which: "k" (after RoPE) or "v".
            session: its id; None for the newest. Of the rows that forks share, each page
                counts as its header says: to one of the sessions that use it.

        Returns:
            float32 [T, n_kv_heads, head_dim]. Ciphertext gives noise, NaN and infinity among it.

        Raises:
            InputError: no such layer, kind or session.
        """
        lay = self.layout
        if not 0 <= layer < lay.n_layers or which not in ("k", "v"):
            raise InputError(f"no rows of kind {which!r} in layer {layer}")
        if session is None and self.pages:
            session = self.sessions()[-1]
        pages = self._pages_of(session)
        at = lay.data_offset + layer * lay.n_kv_heads * lay.head_bytes
        block = self._matrix()[:, at : at + lay.n_kv_heads * lay.head_bytes]
        heads = np.ascontiguousarray(block).reshape(-1, lay.n_kv_heads, lay.head_bytes)
        start = 0 if which == "k" else lay.tile_bytes
        codes = np.ascontiguousarray(heads[:, :, start : start + lay.tile_bytes])
        elements: npt.NDArray[Any] = codes.view(_ELEMENTS[lay.kv_dtype])
        elements = elements.reshape(*codes.shape[:2], lay.rows_per_page, -1)
        if lay.kv_dtype == "int4":
            elements = unpack_int4(elements)
        values = elements.astype(np.float32)
        if lay.has_scales:
            scales = np.ascontiguousarray(heads[:, :, 2 * lay.tile_bytes :]).view("<f4")
            pairs = scales.reshape(-1, lay.n_kv_heads, lay.rows_per_page, 2)
            with np.errstate(all="ignore"):
                values *= pairs[..., 0 if which == "k" else 1][..., None]
        rows = [values[i, :, :length].transpose(1, 0, 2) for i, length in pages]
        return np.ascontiguousarray(np.concatenate(rows))

    def _matrix(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.pages, np.uint8).reshape(-1, self.layout.page_bytes)

    def _pages_of(self, session: int | None) -> list[tuple[int, int]]:
        """Return (page index, rows in use) of a session in token order."""
        headers = self.headers()
        mine = [i for i in range(len(headers)) if int(headers[i]["session"]) == session]
        if not mine:
            raise InputError(f"the dump holds no pages of session {session}")
        mine.sort(key=lambda i: int(headers[i]["first_position"]))
        return [(i, int(headers[i]["length"])) for i in mine]
