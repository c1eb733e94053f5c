"""Writes a 4-bit copy of a GGUF model that llama.cpp reads too.

Matrices become Q4_0 or Q4_1 (ggml's reference rounding), embeddings and head Q8_0 unless they
are quantised already, norms and biases F32. Metadata, tokenizer included, is copied byte for
byte; only `general.file_type` and `general.quantization_version` are set anew.
"""

import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize, quantize

from ptmo_secure.engine.ggml_blocks import FLOAT_KINDS, row_bytes
from ptmo_secure.engine.gguf_file import GgufFile, TensorInfo
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.errors import InputError, ModelFormatError

Kind = GGMLQuantizationType
Progress = Callable[[str, int, int], None]  # (tensor, weights done, weights in all)

_KINDS = {
    "q4_0": (Kind.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (Kind.Q4_1, LlamaFileType.MOSTLY_Q4_1),
}
_KEPT_KIND_NAMES = ("token_embd.weight", "output.weight")
_QUANTIZATION_VERSION = 2  # ggml.h: GGML_QNT_VERSION
_ALIGNMENT = 32
_CHUNK_WEIGHTS = 1 << 21
_UINT32 = 4  # GGUF value type


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """What `quantize_file` wrote."""

    path: Path
    source_bytes: int
    bytes: int
    weights: int
    bits_per_weight: float


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: Literal["q4_0", "q4_1"],
    progress: Progress | None = None,
) -> QuantizedModel:
    """Write a 4-bit copy of a model; atomic, the target is whole or not there.

    A source that is quantised already is dequantised first, so its rounding stays in the result.

    Args:
        source: a GGUF file this engine can run.
        target: the new file; an old one there is replaced.
        kind: "q4_0" (symmetric, 4.5 bits/weight) or "q4_1" (with a minimum, 5 bits/weight).
        progress: called after every tensor.

    Raises:
        InputError: unknown kind, source and target are one file, the target is there and no
            regular file, or its folder is not there or cannot be written.
        ModelFormatError: the source cannot be run, or holds weights that are not finite.
    """
    if kind not in _KINDS:
        raise InputError(f"quantisation {kind!r} is unknown (q4_0, q4_1)")
    path = Path(target)
    _check_target(path)
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{path}: source and target are the same file")
    with ModelSource(source):  # refuses what the engine could not run afterwards
        pass
    block_kind, file_type = _KINDS[kind]
    with GgufFile(source) as model:
        plan = {info.name: _target_kind(info, block_kind) for info in model.tensors.values()}
        header = _header(model, plan, file_type)
        handle, temporary = _temporary_beside(path)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(header)
                _write_tensors(out, model, plan, progress)
                out.flush()
                os.fsync(out.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        weights = sum(int(np.prod(info.shape)) for info in model.tensors.values())
    size = path.stat().st_size
    return QuantizedModel(path, Path(source).stat().st_size, size, weights, 8 * size / weights)


def _check_target(path: Path) -> None:
    """Refuse a target that cannot become, or be replaced by, a regular file."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!a}: cannot be written: not a file name")
    try:
        if not path.parent.is_dir():
            raise InputError(f"{path}: cannot be written: no such folder")
        if path.is_dir():
            raise InputError(f"{path}: cannot be written: a folder")
        if path.is_symlink() or path.exists():
            if not path.is_file():
                raise InputError(f"{path}: cannot be written: not a regular file")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"{path}: cannot be written: its folder is not writable")
    except OSError as error:  # a name too long, a folder that cannot be searched
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _temporary_beside(path: Path) -> tuple[int, Path]:
    """Create the file that becomes `path`; return its descriptor and its name."""
    try:
        handle, name = tempfile.mkstemp(prefix=".quantize-", suffix=".part", dir=path.parent)
    except OSError as error:  # a read-only file system
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return handle, Path(name)


def _target_kind(info: TensorInfo, block_kind: Kind) -> Kind:
    if len(info.shape) == 1:
        return Kind.F32
    if info.name in _KEPT_KIND_NAMES:
        return Kind.Q8_0 if info.type in FLOAT_KINDS else info.type
    return block_kind


def _header(model: GgufFile, plan: dict[str, Kind], file_type: LlamaFileType) -> bytes:
    """Return everything before the tensor data, padding included."""
    replaced = {
        "general.file_type": int(file_type),
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    dropped = {*replaced, "general.alignment"}
    pairs = [model.pair_bytes(key) for key in model.metadata if key not in dropped]
    for key, value in replaced.items():
        pairs.append(_string(key) + struct.pack("<II", _UINT32, value))
    infos: list[bytes] = []
    offset = 0
    for name, kind in plan.items():
        dims = tuple(reversed(model.tensors[name].shape))
        infos.append(
            _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, int(kind), offset)
        )
        offset += _padded(_tensor_bytes(model.tensors[name], kind))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs))
    whole = head + b"".join(pairs) + b"".join(infos)
    return whole + bytes(_padded(len(whole)) - len(whole))


def _write_tensors(
    out: IO[bytes], model: GgufFile, plan: dict[str, Kind], progress: Progress | None
) -> None:
    total = sum(int(np.prod(info.shape)) for info in model.tensors.values())
    done = 0
    for name, kind in plan.items():
        info = model.tensors[name]
        size = _tensor_bytes(info, kind)
        written = _write_tensor(out, model, info, kind)
        out.write(bytes(_padded(size) - written))
        done += int(np.prod(info.shape))
        if progress is not None:
            progress(name, done, total)


def _write_tensor(out: IO[bytes], model: GgufFile, info: TensorInfo, kind: Kind) -> int:
    raw = model.data(info.name)
    if info.type == kind:
        return out.write(raw.data)
    columns = info.shape[-1]
    by_row = raw.reshape(-1, row_bytes(info.type, columns))
    step = max(1, _CHUNK_WEIGHTS // columns)
    written = 0
    for start in range(0, len(by_row), step):
        weights = dequantize(by_row[start : start + step], info.type).astype(np.float32)
        if not np.isfinite(weights).all():
            raise ModelFormatError(f"{model.path}: tensor {info.name!a}: a weight is not finite")
        written += out.write(np.ascontiguousarray(quantize(weights, kind)).tobytes())
    return written


def _tensor_bytes(info: TensorInfo, kind: Kind) -> int:
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    return int(np.prod(info.shape)) // block_elements * block_bytes


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
