"""Sessions in files: sealed rows and token ids that only the same device opens again.

A file is a header in the clear, then sealed records one after another: record 0 holds the token
ids, record i + 1 page i (csrc/kv/page_storage.h says how). Header, little-endian: magic, file id
16 bytes, SHA-256 of the model file, n_layers, n_kv_heads, head_dim, rows_per_page u32 each, KV
dtype 8 bytes, tokens u32, zero u32, adapter tag u64. It is associated data of every record, and
the storage key belongs to the file id and the model, so that nothing of one file passes in another.

Security: rows are opened tile by tile and sealed anew in native code; keys stand in the secret
arena. A reader of the file learns the model, the lengths and the adapter tag. The key derives from
the TEE's root key. Where the device outlives its process (`EngineConfig.tee_state`), a file opens
again after a restart, and only as the newest version of its path (`sealed.newest`). Otherwise the
root key is drawn when the TEE starts: a file opens as long as that TEE lives, and what an older
file of the same session says cannot be told from the newest.
"""

import contextlib
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ptmo_secure import _native
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.paths import path_text
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.errors import (
    InputError,
    PtmoError,
    SecurityError,
    native_error,
)
from ptmo_secure.sealed import files
from ptmo_secure.sealed.store import tampered
from tee_sim.client import ResultCode, TeeError

_MAGIC = b"PTMOKVS1"
_HEADER = struct.Struct("<8s16s32s4I8sIIQ")
_TAG_BYTES = 16
_WHAT = "saved session"
_NUMBER = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class SavedShape:
    """What a session must have in common with the engine that resumes it."""

    model_digest: bytes  # SHA-256 of the model file
    n_layers: int
    n_kv_heads: int
    head_dim: int
    rows_per_page: int
    kv_dtype: str

    @classmethod
    def of(cls, source: ModelSource, config: EngineConfig) -> "SavedShape":
        """Describe an engine; the model file is hashed the first time."""
        model = source.config
        return cls(
            source.sha256(),
            model.n_layers,
            model.n_kv_heads,
            model.head_dim,
            config.rows_per_page,
            config.kv_dtype,
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """A session's rows and what they stand for."""

    native: _native.KvSession
    layout: _native.PageLayout
    tokens: Sequence[int]
    prompt_tokens: int


def save(target: str | os.PathLike[str], rows: Rows, shape: SavedShape, tee: TeeLink) -> None:
    """Write a session to `target`: a new file of mode 0600, complete or not there.

    Raises:
        InputError: the target is no path, is a folder, or cannot be written to.
        EngineError: the TEE refuses or is gone, or the disk is full.
        SecurityError: the device's sealed state was tampered with.
    """
    path = Path(path_text(_WHAT, target))
    if os.path.isdir(path):
        raise InputError(f"{path}: cannot save a session there: a folder")
    file_id = secrets.token_bytes(16)
    header = _HEADER.pack(
        _MAGIC,
        file_id,
        shape.model_digest,
        shape.n_layers,
        shape.n_kv_heads,
        shape.head_dim,
        shape.rows_per_page,
        shape.kv_dtype.encode(),
        len(rows.tokens),
        0,
        rows.native.adapter_tag,
    )
    with (
        _replacing(path, header, tee) as file,
        tee.open_storage(shape.model_digest, file_id) as storage,
    ):
        file.write(header)
        ids = struct.pack(f"<{len(rows.tokens)}I", *rows.tokens)
        file.write(storage.seal(0, header, _NUMBER.pack(rows.prompt_tokens) + ids))
        with tee.row_exchange(to_model=True) as (buffer, reorder):
            for page in range(rows.native.page_count):
                file.write(storage.seal_page(rows.native, page, header, buffer, reorder))


class SavedSession:
    """A saved session's file, its header read and checked against the engine that resumes it.

    Raises:
        InputError: the source is no path, or the file is missing, none of ours, or of another
            model or layout.
        SecurityError: the device's TEE knows another version as the newest.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        shape: SavedShape,
        context_tokens: int,
        tee: TeeLink,
    ) -> None:
        """Read the header; nothing of it is believed before a record authenticates it."""
        path = self._path = Path(path_text(_WHAT, source))
        self._shape = shape
        self._tee = tee
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path}: not a saved session")
        with self._opened() as file:
            self._header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
        self._size = size
        if len(self._header) != _HEADER.size or not self._header.startswith(_MAGIC):
            if tee.newest is not None and tee.newest.knows(path):
                raise tampered(path, ResultCode.BAD_FORMAT)
            raise InputError(f"{path}: not a saved session")
        _, self._file_id, digest, *sizes, dtype, self._n_tokens, _, self._adapter_tag = (
            _HEADER.unpack(self._header)
        )
        self._ids_bytes = _NUMBER.size * (self._n_tokens + 1) + _TAG_BYTES
        if tee.newest is not None:
            tee.newest.check(path, self._header, lambda: self._opens(digest))
        layers, heads, dim, per_page = sizes
        dtype_name = dtype.rstrip(b"\0").decode("latin-1")
        self._check_shape(SavedShape(digest, layers, heads, dim, per_page, dtype_name))
        if self._n_tokens > context_tokens:
            raise InputError(
                f"{path}: the saved session has {self._n_tokens} tokens, the context holds "
                f"{context_tokens}"
            )

    def require_adapters(self, tag: int) -> None:
        """Raise InputError unless the rows were computed under the adapter set of this tag."""
        if self._adapter_tag != tag:
            theirs = "adapters that were not named" if self._adapter_tag else "no adapters"
            raise InputError(f"{self._path}: the session was saved with {theirs}")

    def load(self, native: _native.KvSession, layout: _native.PageLayout) -> tuple[list[int], int]:
        """Append the saved rows to `native`, an empty session, under its own key.

        Args:
            native: takes the rows; close it when this raises.
            layout: its page layout.

        Returns:
            (token ids, prompt tokens).

        Raises:
            SecurityError: a record does not authenticate, or the file has not the length its
                header says.
            CapacityError: the cache is full.
            EngineError: the TEE refuses or is gone.
        """
        n, per_page = self._n_tokens, layout.rows
        lengths = [min(per_page, n - first) for first in range(0, n, per_page)]
        pages_bytes = sum(_native.PageStorage.sealed_bytes(layout, rows) for rows in lengths)
        if self._size != _HEADER.size + self._ids_bytes + pages_bytes:
            raise SecurityError(
                f"{self._path}: the file is cut short or has bytes too many (TRUNCATED)"
            )
        native.adapter_tag = self._adapter_tag
        with self._opened() as file, self._storage() as storage:
            prompt_tokens, *ids = struct.unpack(f"<{n + 1}I", self._open_ids(file, storage))
            with self._tee.row_exchange(to_model=False) as (buffer, reorder):
                for page, rows in enumerate(lengths):
                    sealed = file.read(_native.PageStorage.sealed_bytes(layout, rows))
                    storage.open_page(native, page, rows, self._header, sealed, buffer, reorder)
        if self._tee.newest is not None:
            self._tee.newest.settle(self._path, self._header)
        return ids, prompt_tokens

    def _opens(self, model_digest: bytes) -> bool:
        """Whether record 0 opens under the header, of whatever model the file is."""
        if self._size < _HEADER.size + self._ids_bytes:
            return False
        try:
            with (
                self._opened() as file,
                self._tee.open_storage(model_digest, self._file_id) as storage,
            ):
                self._open_ids(file, storage)
        except _native.AuthenticationError:
            return False
        return True

    def _open_ids(self, file: IO[bytes], storage: _native.PageStorage) -> bytes:
        file.seek(_HEADER.size)
        return storage.open(0, self._header, file.read(self._ids_bytes))

    def _check_shape(self, saved: SavedShape) -> None:
        if saved.model_digest != self._shape.model_digest:
            raise InputError(f"{self._path}: the session was saved with another model")
        for name in ("kv_dtype", "rows_per_page", "n_layers", "n_kv_heads", "head_dim"):
            theirs, ours = getattr(saved, name), getattr(self._shape, name)
            if theirs != ours:
                raise InputError(
                    f"{self._path}: the session was saved with {name}={theirs!a}, "
                    f"this engine has {ours!a}"
                )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self._path.open("rb") as file:
                yield file
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror or error}") from None

    @contextlib.contextmanager
    def _storage(self) -> Iterator[_native.PageStorage]:
        try:
            with self._tee.open_storage(self._shape.model_digest, self._file_id) as storage:
                yield storage
        except _native.AuthenticationError as error:
            raise SecurityError(
                f"{self._path}: {error}: the file was changed, or another TEE saved it "
                "(MAC_INVALID)"
            ) from None
        except (PtmoError, TeeError):
            raise
        except RuntimeError as error:
            raise native_error(error) from None


@contextlib.contextmanager
def _replacing(path: Path, header: bytes, tee: TeeLink) -> Iterator[IO[bytes]]:
    """Write `path` anew, whole or not at all; on a device that lasts, as the newest version."""
    newest = tee.newest
    with files.naming(path):
        with files.replacing(path) if newest is None else newest.replacing(path, header) as file:
            yield file
