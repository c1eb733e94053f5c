"""A strict reader of GGUF model files.

Format: GGUF version 2 and 3, little-endian (ggml, docs/gguf.md). A model file comes from outside,
so every count, length and offset is compared with the bytes that are really there before anything
is allocated by it. What does not fit is a `ModelFormatError` that names the file and the field.
"""

import hashlib
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ptmo_secure.errors import InputError, ModelFormatError
from ptmo_secure.sealed.marks import MAGIC as SEALED_MAGIC

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16
_MAX_KEY_BYTES = 65535  # docs/gguf.md: metadata keys
_MAX_NAME_BYTES = 64  # docs/gguf.md: tensor names
_MAX_DIMS = 4
_MAX_ARRAY_DEPTH = 4
_MAX_STRINGS = 1 << 22  # strings in one array: 16x the largest vocabulary in use
_MIN_PAIR_BYTES = 8 + 4 + 1  # key length, value type, shortest value
_MIN_INFO_BYTES = 8 + 4 + 8 + 4 + 8  # name length, rank, one dimension, type, offset

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, str] = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOL: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


_HASHED_BYTES = 16 << 20  # what hashing keeps of a file in memory


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and how to read it."""

    name: str
    shape: tuple[int, ...]  # NumPy order: the contiguous dimension last
    type: GGMLQuantizationType
    offset: int  # bytes from the start of the file
    nbytes: int


class GgufFile:
    """A GGUF file, mapped read-only, its header parsed and checked.

    Args:
        path: the file, or what stands in errors for `content`.
        content: memory that holds the file's bytes; taken over, and closed with this object.

    Attributes:
        path: the file.
        version: 2 or 3.
        metadata: key -> int | float | bool | str, list[str] (nested arrays: list) or a NumPy array.
        tensors: name -> `TensorInfo`, in file order.

    Raises:
        InputError: the file is missing or unreadable.
        ModelFormatError: it is not a well-formed GGUF file.
    """

    def __init__(self, path: str | os.PathLike[str], content: mmap.mmap | None = None) -> None:
        self.path = Path(path)
        self._in_memory = content is not None
        self._map = _map_file(self.path) if content is None else content
        try:
            header = _Header(self._map, str(self.path))
            self.version = header.version
            self.metadata: dict[str, object] = header.read_metadata()
            self._pair_places = header.pair_places
            self.tensors: dict[str, TensorInfo] = header.read_tensors(self.metadata)
        except BaseException:
            self._map.close()
            raise

    def data(self, name: str) -> np.ndarray:
        """Return a tensor's bytes as a read-only view into the mapping.

        Returns:
            uint8 [nbytes]; it stays valid until the file is truncated by somebody else.

        Raises:
            ModelFormatError: there is no such tensor.
        """
        info = self.tensors.get(name)
        if info is None:
            raise ModelFormatError(f"{self.path}: no tensor named {_show(name)}")
        return np.frombuffer(self._map, dtype=np.uint8, count=info.nbytes, offset=info.offset)

    def release(self) -> None:
        """Let the pages that were read leave memory; what is read later comes from the file again.

        Views stay valid. For whoever packs a model tensor by tensor: without it, the file and its
        packed copy would both be resident. Content that lies in memory alone stays.
        """
        if not self._in_memory:
            self._map.madvise(mmap.MADV_DONTNEED)

    def pair_bytes(self, key: str) -> bytes:
        """Return a metadata pair as it stands in the file: key, value type, value."""
        start, end = self._pair_places[key]
        return self._map[start:end]

    def sha256(self) -> bytes:
        """Return the SHA-256 of the whole file, 32 bytes; reads it, a piece in memory at a time."""
        digest = hashlib.sha256()
        with memoryview(self._map) as view:
            for at in range(0, len(view), _HASHED_BYTES):
                digest.update(view[at : at + _HASHED_BYTES])
                self.release()
        return digest.digest()

    def close(self) -> None:
        """Unmap the file; a view that is still held keeps the mapping until it goes."""
        try:
            self._map.close()
        except BufferError:
            return

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Header:
    """A cursor over the mapped file; every read is checked against the bytes left."""

    def __init__(self, data: mmap.mmap, source: str) -> None:
        self._data = data
        self._size = len(data)
        self._source = source
        self._pos = 0
        magic = self._take(4, "magic")
        if magic == SEALED_MAGIC[:4]:
            raise self._error("magic", "a sealed file: `ptmo model unseal` gives its content back")
        if magic != _MAGIC:
            raise self._error("magic", "not a GGUF file")
        self.version = self._u32("version")
        if self.version & 0xFFFF == 0:
            raise self._error("version", "big-endian GGUF files are not supported")
        if self.version not in _VERSIONS:
            raise self._error("version", f"GGUF version {self.version} is not 2 or 3")
        self._n_tensors = self._u64("tensor count")
        self._n_pairs = self._u64("metadata count")
        self.pair_places: dict[str, tuple[int, int]] = {}  # key -> first byte, past the last
        self._check_room(self._n_pairs, _MIN_PAIR_BYTES, "metadata count")
        self._check_room(self._n_tensors, _MIN_INFO_BYTES, "tensor count")

    def read_metadata(self) -> dict[str, object]:
        metadata: dict[str, object] = {}
        for index in range(self._n_pairs):
            start = self._pos
            key = self._string(f"metadata key {index}", _MAX_KEY_BYTES)
            field = f"metadata {_show(key)}"
            if not key or key in metadata:
                raise self._error(field, "the key is empty or appears twice")
            metadata[key] = self._value(self._u32(field), field, depth=0)
            self.pair_places[key] = (start, self._pos)
        return metadata

    def read_tensors(self, metadata: dict[str, object]) -> dict[str, TensorInfo]:
        alignment = self._alignment(metadata)
        found: dict[str, TensorInfo] = {}
        for index in range(self._n_tensors):
            info = self._tensor_info(f"tensor {index}", alignment)
            if info.name in found:
                raise self._error(f"tensor {_show(info.name)}", "the name appears twice")
            found[info.name] = info
        data_start = -(-self._pos // alignment) * alignment
        placed = {
            name: TensorInfo(name, info.shape, info.type, data_start + info.offset, info.nbytes)
            for name, info in found.items()
        }
        self._check_places(placed)
        return placed

    def _check_places(self, tensors: dict[str, TensorInfo]) -> None:
        end = 0
        for info in sorted(tensors.values(), key=lambda t: t.offset):
            field = f"tensor {_show(info.name)}"
            if info.offset < end:
                raise self._error(field, "its data overlaps another tensor's")
            end = info.offset + info.nbytes
            if end > self._size:
                raise self._error(
                    field,
                    f"its data ends at byte {end}, the file has {self._size}: truncated or damaged",
                )

    def _alignment(self, metadata: dict[str, object]) -> int:
        value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._error("general.alignment", "not an integer")
        if not 8 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            raise self._error("general.alignment", f"{value} is not a power of two in 8..65536")
        return value

    def _tensor_info(self, field: str, alignment: int) -> TensorInfo:
        name = self._string(f"{field} name", _MAX_NAME_BYTES)
        field = f"tensor {_show(name)}"
        n_dims = self._u32(f"{field} rank")
        if not 1 <= n_dims <= _MAX_DIMS:
            raise self._error(field, f"it has {n_dims} dimensions, not 1 to {_MAX_DIMS}")
        dims = [self._u64(f"{field} dimension {axis}") for axis in range(n_dims)]
        type_id = self._u32(f"{field} type")
        offset = self._u64(f"{field} offset")
        try:
            kind = GGMLQuantizationType(type_id)
            block_elements, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise self._error(field, f"unknown tensor type {type_id}") from None
        elements = 1
        for dim in dims:
            elements *= dim
            if not 1 <= dim <= self._size * block_elements or elements > self._size * 256:
                raise self._error(field, f"shape {dims} does not fit in the file")
        if dims[0] % block_elements:
            raise self._error(
                field, f"rows of {dims[0]} are no multiple of {kind.name}'s {block_elements}"
            )
        if offset % alignment or offset > self._size:
            raise self._error(field, f"offset {offset} is misaligned or past the end of the file")
        nbytes = elements // block_elements * block_bytes
        return TensorInfo(name, tuple(reversed(dims)), kind, offset, nbytes)

    def _value(self, kind: int, field: str, depth: int) -> object:
        if kind == _STRING:
            return self._string(field, self._size)
        if kind == _ARRAY:
            return self._array(field, depth + 1)
        if kind not in _SCALARS:
            raise self._error(field, f"unknown value type {kind}")
        return self._numbers(kind, 1, field)[0].item()

    def _array(self, field: str, depth: int) -> object:
        if depth > _MAX_ARRAY_DEPTH:
            raise self._error(field, f"arrays nested deeper than {_MAX_ARRAY_DEPTH}")
        kind = self._u32(field)
        count = self._u64(field)
        if kind in _SCALARS:
            return self._numbers(kind, count, field)
        if kind not in (_STRING, _ARRAY):
            raise self._error(field, f"unknown element type {kind}")
        if count > _MAX_STRINGS:
            raise self._error(field, f"{count} elements, more than {_MAX_STRINGS}")
        self._check_room(count, 8 if kind == _STRING else 12, field)
        return [self._value(kind, field, depth) for _ in range(count)]

    def _numbers(self, kind: int, count: int, field: str) -> np.ndarray:
        dtype = np.dtype(_SCALARS[kind])
        self._check_room(count, dtype.itemsize, field)
        raw = self._take(count * dtype.itemsize, field)
        if kind == _BOOL and raw.strip(b"\x00\x01"):
            raise self._error(field, "a boolean that is neither 0 nor 1")
        return np.frombuffer(raw, dtype=dtype)

    def _string(self, field: str, limit: int) -> str:
        length = self._u64(field)
        if length > limit:
            raise self._error(field, f"a string of {length} bytes (at most {limit})")
        try:
            return self._take(length, field).decode("utf-8")
        except UnicodeDecodeError:
            raise self._error(field, "not valid UTF-8") from None

    def _u32(self, field: str) -> int:
        value: int = _U32.unpack(self._take(4, field))[0]
        return value

    def _u64(self, field: str) -> int:
        value: int = _U64.unpack(self._take(8, field))[0]
        return value

    def _take(self, n_bytes: int, field: str) -> bytes:
        end = self._pos + n_bytes
        if end > self._size:
            raise self._error(field, f"the file ends at byte {self._size}: truncated or damaged")
        taken = self._data[self._pos : end]
        self._pos = end
        return taken

    def _check_room(self, count: int, item_bytes: int, field: str) -> None:
        if count * item_bytes > self._size - self._pos:
            raise self._error(
                field, f"{count} items cannot lie in the {self._size - self._pos} bytes left"
            )

    def _error(self, field: str, problem: str) -> ModelFormatError:
        return ModelFormatError(f"{self._source}: {field}: {problem}")


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelFormatError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFormatError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _show(text: str) -> str:
    """Quote a string of the file for a one-line message."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
