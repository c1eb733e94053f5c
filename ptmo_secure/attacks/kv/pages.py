"""What an attacker makes of stolen KV pages: bytes in, rows out.

This is the attacker's own parser of the page format. It shares no code with the engine, so that an
attack can be judged by its input: bytes read at the pages' addresses, and the layout, which is
public. Format (little-endian): header of 64 bytes (magic u32 'KVPG', version u16, rows_per_page
u16, page_id, session, epoch, length, first_position, family: u32 each, adapter_tag u64, 24 zeros),
seq u64[rows_per_page], then for each layer and each KV head: K [rows][head_dim], V
[rows][head_dim], and of integers the scales [rows][2] float32 (k_scale, v_scale), whose value is
code * scale. INT4 packs two codes into a byte.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ptmo_secure.errors import InputError

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]

PAGE_MAGIC = 0x4750564B
PAGE_VERSION = 2
ELEMENT_DTYPES: dict[str, np.dtype[np.generic]] = {
    "int8": np.dtype("i1"),
    "int4": np.dtype("u1"),  # two codes: element j (low nibble) and j + head_dim / 2, plus 8
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
}
SCALE_BYTES = 8  # k_scale, v_scale: float32 each, integers only

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


class LayoutLike(Protocol):
    """The fields an attack reads of `DeviceDump.layout`."""

    @property
    def n_layers(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def rows_per_page(self) -> int: ...
    @property
    def kv_dtype(self) -> str: ...
    @property
    def page_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Shape of a page. Public: it follows from the model and the engine's source."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    rows_per_page: int
    kv_dtype: str
    page_bytes: int

    @classmethod
    def of(cls, layout: LayoutLike) -> "PageLayout":
        """Copy the public shape of `layout`, and nothing else it may carry."""
        return cls(
            n_layers=layout.n_layers,
            n_kv_heads=layout.n_kv_heads,
            head_dim=layout.head_dim,
            rows_per_page=layout.rows_per_page,
            kv_dtype=layout.kv_dtype,
            page_bytes=layout.page_bytes,
        )

    @property
    def element(self) -> np.dtype[np.generic]:
        """Dtype of one stored K or V element."""
        return ELEMENT_DTYPES[self.kv_dtype]

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of the K (or V) rows of one layer and KV head in one page."""
        elements = self.rows_per_page * self.head_dim // (2 if self.kv_dtype == "int4" else 1)
        return elements * self.element.itemsize

    @property
    def code_max(self) -> int | None:
        """The largest code of an integer cache, whose rows have scales; None for floats."""
        return {"int8": 127, "int4": 7}.get(self.kv_dtype)

    @property
    def head_block_bytes(self) -> int:
        """Bytes of one layer and KV head in one page: K, V and, of integers, the scales."""
        scales = self.rows_per_page * SCALE_BYTES if self.code_max else 0
        return 2 * self.kv_block_bytes + scales

    def head_block_offset(self, layer: int, head: int) -> int:
        """Byte offset in a page of the block of (`layer`, `head`)."""
        before = layer * self.n_kv_heads + head
        return HEADER.itemsize + 8 * self.rows_per_page + before * self.head_block_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of a page that the format defines; `page_bytes` may add padding."""
        return self.head_block_offset(self.n_layers, 0)


@dataclass(frozen=True, slots=True)
class StolenMemory:
    """One reading of the device's KV pages: all that attacker A0 has."""

    pages: bytes
    layout: PageLayout


@dataclass(frozen=True, slots=True)
class SessionRows:
    """The rows of one session at one layer, in order of position, undecoded."""

    session: int
    seq: npt.NDArray[np.uint64]  # [T] sequence numbers, in the clear by design
    codes: npt.NDArray[np.generic]  # [T, n_kv_heads, head_dim] int8, float16 or float32
    scales: FloatArray | None  # [T, n_kv_heads], integers only
    code_max: int | None  # 127 or 7; None for floats


def unpack_int4(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.int8]:
    """Codes -8..7 of packed rows [..., head_dim / 2]."""
    packed = rows.astype(np.uint8)
    halves = [packed & np.uint8(15), packed >> np.uint8(4)]
    codes: npt.NDArray[np.int8] = np.concatenate(halves, axis=-1).astype(np.int8)
    codes -= 8
    return codes


def _checked_headers(stolen: StolenMemory) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
    """Split the bytes into pages and check every header. Returns ([n, page_bytes], [n])."""
    layout = stolen.layout
    if layout.kv_dtype not in ELEMENT_DTYPES:
        raise InputError(f"kv_dtype {layout.kv_dtype!r} is not one of {', '.join(ELEMENT_DTYPES)}")
    if layout.page_bytes < layout.used_bytes:
        raise InputError(
            f"page_bytes is {layout.page_bytes}, but the layout needs {layout.used_bytes}"
        )
    if len(stolen.pages) % layout.page_bytes:
        raise InputError(
            f"a dump of {len(stolen.pages)} bytes is not a whole number of pages "
            f"of {layout.page_bytes} bytes"
        )
    raw = np.frombuffer(stolen.pages, dtype=np.uint8).reshape(-1, layout.page_bytes)
    headers = np.ascontiguousarray(raw[:, : HEADER.itemsize]).view(HEADER)[:, 0]
    expected = {
        "magic": PAGE_MAGIC,
        "version": PAGE_VERSION,
        "rows_per_page": layout.rows_per_page,
    }
    for field, value in expected.items():
        wrong = np.flatnonzero(headers[field] != value)
        if wrong.size:
            found = int(headers[field][wrong[0]])
            raise InputError(f"page {wrong[0]} of the dump has {field} {found}, not {value}")
    too_long = np.flatnonzero(headers["length"] > layout.rows_per_page)
    if too_long.size:
        found = int(headers["length"][too_long[0]])
        raise InputError(f"page {too_long[0]} of the dump claims {found} rows")
    return raw, headers


def read_sessions(
    stolen: StolenMemory, layer: int = 0, which: Literal["k", "v"] = "v"
) -> list[SessionRows]:
    """Read the K or V rows of `layer`, one entry per session, in order of session number.

    Ciphertext reads as well as plaintext does: nothing here looks at the values.

    Args:
        stolen: the bytes and their layout.
        layer: 0 .. n_layers - 1.
        which: "k" (stored after RoPE) or "v".
    Raises:
        InputError: the bytes are not whole pages, or a header contradicts the layout.
    """
    layout = stolen.layout
    raw, headers = _checked_headers(stolen)
    if not 0 <= layer < layout.n_layers:
        raise InputError(f"layer {layer} is not in 0..{layout.n_layers - 1}")
    found = []
    for session in np.unique(headers["session"]):
        mine = np.flatnonzero(headers["session"] == session)
        mine = mine[np.argsort(headers["first_position"][mine], kind="stable")]
        used = np.arange(layout.rows_per_page) < headers["length"][mine][:, None]
        seq_end = HEADER.itemsize + 8 * layout.rows_per_page
        seq = np.ascontiguousarray(raw[mine, HEADER.itemsize : seq_end]).view("<u8")
        codes, scales = [], []
        for head in range(layout.n_kv_heads):
            start = layout.head_block_offset(layer, head)
            start += layout.kv_block_bytes if which == "v" else 0
            block = np.ascontiguousarray(raw[mine, start : start + layout.kv_block_bytes])
            rows = block.view(layout.element).reshape(len(mine), layout.rows_per_page, -1)[used]
            codes.append(unpack_int4(rows) if layout.kv_dtype == "int4" else rows)
            if layout.code_max:
                start = layout.head_block_offset(layer, head) + 2 * layout.kv_block_bytes
                end = start + layout.rows_per_page * SCALE_BYTES
                pairs = np.ascontiguousarray(raw[mine, start:end]).view("<f4")
                pairs = pairs.reshape(len(mine), layout.rows_per_page, 2)
                scales.append(pairs[used][:, 0 if which == "k" else 1])
        found.append(
            SessionRows(
                session=int(session),
                seq=seq[used].astype(np.uint64),
                codes=np.stack(codes, axis=1),
                scales=np.stack(scales, axis=1).astype(np.float32) if scales else None,
                code_max=layout.code_max,
            )
        )
    return found
