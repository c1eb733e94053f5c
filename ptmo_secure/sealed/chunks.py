"""Large files sealed for one device, in chunks that are authenticated one by one.

Header, little-endian, in the clear: magic "PTMOFILE", version u16 = 1, kind u16 (1 model, 2
adapter), zero u32, plaintext bytes u64, file id 16 bytes. Then chunk i is AES-256-GCM-SIV (RFC
8452) of the next MiB of plaintext, the last one shorter, with a tag of 16 bytes; nonce i;
associated data: header | i u32 | u8 that is 1 for the last (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizar, 2015). A file id is drawn for each file, and the TEE derives the
file's key from it; so a chunk opens in its own place of its own file or not at all.
`NewestVersions` dates the whole.

Security: the key stands in a secret arena and nothing of it in Python; native code seals and
opens. A reader of the file learns kind, length and id. No chunk is given out before it was
authenticated, and no file that is not the newest version of its path.
"""

import contextlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import IO

from ptmo_secure import _native
from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.sealed.files import naming
from ptmo_secure.sealed.marks import MAGIC, SUFFIX, starts_sealed
from ptmo_secure.sealed.newest import NewestVersions
from ptmo_secure.sealed.store import SealedStore, tampered
from tee_sim.client import ResultCode

CHUNK_BYTES = 1 << 20
HEADER = struct.Struct("<8sHHIQ16s")
_VERSION = 1
_PLACE = struct.Struct("<IB")
_TAG_BYTES = 16
_FILE_ID_BYTES = 16
_ARENA_BYTES = 4096

ByteProgress = Callable[[int, int], None]  # (plaintext bytes done, all)


class SealedKind(IntEnum):
    """What a sealed file holds."""

    MODEL = 1  # a GGUF file
    ADAPTER = 2  # the two files of a LoRA adapter


def check_target(target: Path) -> None:
    """Refuse a path that no sealed file should be written to.

    Raises:
        InputError: it does not end with ".sealed", or something else is there.
    """
    if target.suffix != SUFFIX or target.name == SUFFIX:
        raise InputError(f"{target}: the name of a sealed file ends with {SUFFIX}")
    if os.path.lexists(target):
        with naming(target):
            sealed = starts_sealed(target)
        if not sealed:
            raise InputError(f"{target}: something is there already, and no sealed file")


def seal(
    store: SealedStore,
    kind: SealedKind,
    parts: Sequence[IO[bytes]],
    n_bytes: int,
    target: Path,
    progress: ByteProgress | None = None,
) -> None:
    """Seal what files hold end to end into `target`, which appears whole or not at all.

    Args:
        store: of the device that will open it.
        kind: what it is.
        parts: open files.
        n_bytes: their bytes, together.
        target: the newest version of this path from then on.
        progress: called after every chunk.

    Raises:
        InputError: a part is shorter or longer than it was, or the target cannot be written to.
        EngineError: the TEE refuses or is gone, or the disk is full.
        SecurityError: the device's sealed state was tampered with.
    """
    check_target(target)
    file_id = secrets.token_bytes(_FILE_ID_BYTES)
    header = HEADER.pack(MAGIC, _VERSION, kind, 0, n_bytes, file_id)
    done = 0
    with (
        naming(target),
        NewestVersions(store).replacing(target, header) as out,
        _cipher(store, file_id) as cipher,
    ):
        out.write(header)
        for index, size in enumerate(_sizes(n_bytes)):
            piece = _take(parts, size)
            done += size
            if len(piece) != size or (done == n_bytes and _take(parts, 1)):
                raise InputError(f"{target}: the source changed while it was sealed")
            out.write(cipher.seal(index, _associated(header, index, done == n_bytes), piece))
            if progress is not None:
                progress(done, n_bytes)


class SealedFile:
    """A sealed file, open, whose header is the newest version's.

    A version that is put in its place meanwhile changes nothing about this one.

    Attributes:
        path: the file.
        kind: what it holds.
        n_bytes: plaintext bytes.

    Raises:
        InputError: it is missing or cannot be read; or, by name, content and all the device knows,
            it never was a sealed file.
        SecurityError: it was changed, cut short, rolled back, or is another one's; the text says
            which, by the codes of docs/tee.md.
    """

    def __init__(self, path: Path, store: SealedStore) -> None:
        self.path = path
        self._store = store
        self._newest = NewestVersions(store)
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file")
        with self._newest.lock:  # so that what is read and what is known of it are of one moment
            with naming(path):
                self._file = path.open("rb")
            try:
                with naming(path):
                    self._header = self._file.read(HEADER.size)
                    self._size = os.fstat(self._file.fileno()).st_size
                self._check_header()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> "SealedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _check_header(self) -> None:
        path, header = self.path, self._header
        if not header.startswith(MAGIC) and path.suffix != SUFFIX and not self._newest.knows(path):
            raise InputError(f"{path}: not a sealed file")
        if header[: len(MAGIC)] != MAGIC[: len(header)]:
            raise tampered(path, ResultCode.BAD_FORMAT)
        if len(header) < HEADER.size:
            raise tampered(path, ResultCode.TRUNCATED)
        _, version, kind, _, self.n_bytes, self._file_id = HEADER.unpack(header)
        if version != _VERSION:
            raise tampered(path, ResultCode.BAD_FORMAT)
        self._newest.check(path, header, self._opens)
        self.kind = SealedKind(kind)
        tags = _TAG_BYTES * len(_sizes(self.n_bytes))
        if self._size != HEADER.size + self.n_bytes + tags:
            raise tampered(path, ResultCode.TRUNCATED)

    def chunks(self, progress: ByteProgress | None = None) -> Iterator[bytes]:
        """Give out the plaintext, chunk by chunk, each authenticated.

        Whoever uses a chunk before the last one came must be ready to undo it.

        Raises:
            SecurityError: a chunk was changed or moved.
            EngineError: the TEE refuses or is gone.
        """
        sizes, done, file = _sizes(self.n_bytes), 0, self._file
        with naming(self.path):
            file.seek(HEADER.size)
            with _cipher(self._store, self._file_id) as cipher:
                for index, size in enumerate(sizes):
                    done += size
                    associated = _associated(self._header, index, done == self.n_bytes)
                    sealed = file.read(size + _TAG_BYTES)
                    if len(sealed) != size + _TAG_BYTES:
                        raise tampered(self.path, ResultCode.TRUNCATED)
                    try:
                        piece = cipher.open(index, associated, sealed)
                    except _native.AuthenticationError:
                        raise SecurityError(
                            f"{self.path}: chunk {index + 1} of {len(sizes)} was changed or moved "
                            f"({ResultCode.MAC_INVALID.name})"
                        ) from None
                    yield piece
                    if progress is not None:
                        progress(done, self.n_bytes)
        self._newest.settle(self.path, self._header)

    def _opens(self) -> bool:
        """Whether the first chunk opens under the header."""
        first = min(self.n_bytes, CHUNK_BYTES)
        with naming(self.path):
            self._file.seek(HEADER.size)
            sealed = self._file.read(first + _TAG_BYTES)
        if len(sealed) != first + _TAG_BYTES:
            return False
        associated = _associated(self._header, 0, first == self.n_bytes)
        with _cipher(self._store, self._file_id) as cipher:
            try:
                cipher.open(0, associated, sealed)
            except _native.AuthenticationError:
                return False
        return True


def _sizes(n_bytes: int) -> Sequence[int]:
    """Return the plaintext bytes of every chunk; there is at least one."""
    whole, rest = divmod(n_bytes, CHUNK_BYTES)
    return [CHUNK_BYTES] * whole + ([rest] if rest or not whole else [])


def _associated(header: bytes, index: int, last: bool) -> bytes:
    return header + _PLACE.pack(index, last)


def _take(parts: Sequence[IO[bytes]], n_bytes: int) -> bytes:
    """Read up to `n_bytes` from files that are read one after another."""
    taken = b""
    for part in parts:
        while len(taken) < n_bytes and (more := part.read(n_bytes - len(taken))):
            taken += more
    return taken


@contextlib.contextmanager
def _cipher(store: SealedStore, file_id: bytes) -> Iterator[_native.PageStorage]:
    """Have the TEE write the file's key into a secret arena, for the length of the block."""
    try:
        arena = _native.SecretArena(_ARENA_BYTES)
    except RuntimeError as error:
        raise EngineError(f"no memory for a key: {error}") from None
    slot = arena.take_slot()
    store.file_key(arena.fd, arena.size, slot, file_id)
    arena.close_fd()
    cipher = _native.PageStorage(arena, slot)
    try:
        yield cipher
    finally:
        cipher.close()
