"""What the user seals and gets back: a model file, or a LoRA adapter's folder.

An adapter is sealed as one: bytes of its settings u64, little-endian | settings | weights.
"""

import io
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.sealed.chunks import ByteProgress, SealedFile, SealedKind, seal
from ptmo_secure.sealed.files import creating, naming, sync_folder
from ptmo_secure.sealed.store import SealedStore

SETTINGS_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_LENGTH = struct.Struct("<Q")
_MAX_SETTINGS_BYTES = 1 << 20


def seal_path(
    store: SealedStore, source: Path, target: Path, progress: ByteProgress | None = None
) -> SealedKind:
    """Seal a GGUF file, or an adapter's folder, for a device.

    Args:
        store: the device's.
        source: stays as it is.
        target: a path that ends with ".sealed"; replaced whole or not at all.
        progress: called after every chunk.

    Returns:
        What was sealed.

    Raises:
        InputError: a file cannot be read, or the target not be written to.
        EngineError: the TEE refuses or is gone, or the disk is full.
        SecurityError: the device's sealed state was tampered with.
    """
    is_folder = source.is_dir()
    names = (source / SETTINGS_NAME, source / WEIGHTS_NAME) if is_folder else (source,)
    with ExitStack() as stack:
        files = []
        for name in names:
            with naming(name):
                files.append(stack.enter_context(name.open("rb")))
        sizes = [os.fstat(file.fileno()).st_size for file in files]
        if not is_folder:
            seal(store, SealedKind.MODEL, files, sizes[0], target, progress)
            return SealedKind.MODEL
        if sizes[0] > _MAX_SETTINGS_BYTES:
            raise InputError(f"{names[0]}: larger than {_MAX_SETTINGS_BYTES} bytes")
        length = io.BytesIO(_LENGTH.pack(sizes[0]))
        n_bytes = _LENGTH.size + sum(sizes)
        seal(store, SealedKind.ADAPTER, [length, *files], n_bytes, target, progress)
        return SealedKind.ADAPTER


def unseal_path(
    store: SealedStore, source: Path, target: Path, progress: ByteProgress | None = None
) -> SealedKind:
    """Write what a sealed file holds: a GGUF file, or an adapter's folder.

    Args:
        store: the device's.
        source: the sealed file.
        target: nothing may be there yet; it appears whole or not at all, for its owner alone.
        progress: called after every chunk.

    Returns:
        What it was.

    Raises:
        InputError: as `SealedFile`; or the target is there, or cannot be written to.
        EngineError: the TEE refuses or is gone, or the disk is full.
        SecurityError: as `SealedFile`. Nothing is left of what was written before.
    """
    if os.path.lexists(target):
        raise InputError(f"{target}: there is something already")
    with SealedFile(source, store) as file:
        kind = file.kind
        if kind == SealedKind.MODEL:
            with naming(target):
                _write(target, file.chunks(progress))
            return kind
        settings, weights = split(b"".join(file.chunks(progress)))
    with naming(target):
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            _write(part / SETTINGS_NAME, [settings])
            _write(part / WEIGHTS_NAME, [weights])
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(target.parent)
    return kind


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return settings and weights of an adapter that was one file."""
    size = _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 1 << 64
    if size > len(data) - _LENGTH.size:
        raise SecurityError("a sealed adapter whose settings are longer than the whole")
    return data[_LENGTH.size : _LENGTH.size + size], data[_LENGTH.size + size :]


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with creating(path) as out:
        for piece in pieces:
            out.write(piece)
