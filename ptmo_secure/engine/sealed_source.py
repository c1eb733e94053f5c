"""Sealed model files and adapters, opened into memory for an engine on the device they belong to.

Security: the plaintext never touches a file. It stands in anonymous memory, left out of core dumps,
and is given out only when every chunk was authenticated. A model's is unmapped once the weights are
packed; under `permute` it stays, because a TEE that is started anew permutes the weights anew. The
weights then stand in the clear in the engine's memory, which sealing does not protect.
"""

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from ptmo_secure.engine import registry
from ptmo_secure.engine.adapters import (
    AdapterFiles,
    AdapterWeights,
    adapter_of,
    largest_file,
    read_adapter,
)
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import LlamaConfig, ModelSource
from ptmo_secure.engine.paths import path_text
from ptmo_secure.engine.tee_host import TeeHost
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.engine.weights import Progress
from ptmo_secure.errors import EngineError, InputError, ModelFormatError
from ptmo_secure.sealed import bundle
from ptmo_secure.sealed.chunks import SealedFile, SealedKind
from ptmo_secure.sealed.marks import is_sealed
from ptmo_secure.sealed.store import SealedStore


@contextlib.contextmanager
def opened_source(
    name: str | os.PathLike[str],
    config: EngineConfig,
    host: TeeHost,
    progress: Progress | None = None,
) -> Iterator[ModelSource]:
    """Open a model for the engine that is built in the block; close it when the block fails.

    Args:
        name: a registry name, or the path of a GGUF file or of a sealed one.
        config: of the engine; a sealed file needs its `tee_state`.
        host: of its TEE.
        progress: called with (bytes opened, all) of a sealed file.

    Raises:
        InputError: as `registry.resolve_verified` and `ModelSource`, or a sealed file without a
            device.
        SecurityError: a sealed file was tampered with.
        EngineError: the TEE does not start, or memory is short.
    """
    if host.folder != config.tee_state:
        raise InputError("engines that share a TEE are of one device: give them one tee_state")
    path = registry.resolve_verified(name)
    sealed = is_sealed(path)
    source = _unsealed(path, config, host.store, progress) if sealed else ModelSource(path)
    try:
        yield source
    except BaseException:
        source.close()
        raise
    if sealed and not config.permuted:
        source.close()


def _unsealed(
    path: Path, config: EngineConfig, running: SealedStore | None, progress: Progress | None
) -> ModelSource:
    with _device(path, config, running) as store:
        with _opened(path, store, SealedKind.MODEL) as file:
            try:
                content = mmap.mmap(-1, max(1, file.n_bytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except (OSError, OverflowError):
                raise EngineError(f"{path}: no memory for its {file.n_bytes} bytes") from None
            try:
                content.madvise(mmap.MADV_DONTDUMP)
                digest = hashlib.sha256()
                for piece in file.chunks(progress):
                    digest.update(piece)
                    content.write(piece)
            except BaseException:
                content.close()
                raise
    return ModelSource(path, content=(content, digest.digest()))


def read_any_adapter(
    path: str | os.PathLike[str], model: LlamaConfig, config: EngineConfig, link: TeeLink | None
) -> AdapterWeights:
    """Read an adapter from a folder, or from a sealed file.

    Args:
        path: of either.
        model: what it must fit.
        config: of the engine; a sealed file needs its `tee_state`.
        link: the engine's TEE; None where the shield has none.

    Raises:
        InputError: as `read_adapter`, or a sealed file without a device.
        SecurityError: a sealed file was tampered with.
        EngineError: the TEE is gone or does not start.
    """
    file_path = Path(path_text("adapter", path))
    if not is_sealed(file_path):
        return read_adapter(path, model)
    with _device(file_path, config, None if link is None else link.store) as store:
        with _opened(file_path, store, SealedKind.ADAPTER) as file:
            if file.n_bytes > largest_file(model):
                raise ModelFormatError(f"{file_path}: larger than any adapter for this model")
            settings, weights = bundle.split(b"".join(file.chunks()))
    return adapter_of(AdapterFiles(file_path, settings, weights), model)


@contextlib.contextmanager
def _opened(path: Path, store: SealedStore, kind: SealedKind) -> Iterator[SealedFile]:
    with SealedFile(path, store) as file:
        if file.kind != kind:
            held = file.kind.name.lower()
            raise InputError(f"{path}: it holds a sealed {held}, not {_named(kind)}")
        yield file


def _named(kind: SealedKind) -> str:
    return "a model" if kind == SealedKind.MODEL else "an adapter"


@contextlib.contextmanager
def _device(path: Path, config: EngineConfig, running: SealedStore | None) -> Iterator[SealedStore]:
    """Give the engine's own device as it runs, or start it for the length of the block."""
    if config.tee_state is None:
        raise InputError(
            f"{path}: a sealed file: name the state folder of the device that sealed it "
            "(tee_state, --state)"
        )
    if running is not None:
        yield running
        return
    with SealedStore.open(config.tee_state, create=False) as store:
        yield store
