"""Files that are replaced whole or not at all, also when the power fails in between."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ptmo_secure.errors import EngineError, InputError, PtmoError

_PART = ".part"
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS})
_BAD_PATH = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST),
    }
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file of mode 0600 beside `path` and, when all went well, put it in its place.

    What was written is flushed before the rename and the folder after it, so that `path` is the
    old file or the new one at every moment, and the new one once this returns.

    Raises:
        OSError: `path` is the old file still, or (if only the folder could not be flushed) may be
            either.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:  # mkstemp made it 0600
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def creating(path: Path) -> Iterator[IO[bytes]]:
    """Write a new file of mode 0600 that has no name before all of it is written.

    Whatever ends the program before that leaves nothing of it, SIGKILL and a power failure too.
    Where the file system has no files without a name (O_TMPFILE), it is written as `replacing`
    does: a program that is killed then leaves a file that ends with ".part".

    Raises:
        OSError: there is something at `path` already, or it cannot be written.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _nameless(path.parent)
        if fd is None:
            with replacing(path) as file:
                yield file
            return
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
            # With a folder given, what the name under /proc stands for is linked, not the name.
            os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def _nameless(folder: Path) -> int | None:
    """Open a file without a name for writing; None where there are none, or none can be named."""
    if not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return None
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise what goes wrong with a file under a path of the user's as an error of ours.

    Raises:
        InputError: the path cannot be used.
        EngineError: the disk is full or fails.
    """
    try:
        yield
    except OSError as error:
        raise failure(path, error) from None


def failure(path: Path, error: OSError) -> PtmoError:
    """Return the error that names a file and what the system says of it."""
    kind = InputError if error.errno in _BAD_PATH else EngineError
    return kind(f"{path}: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable: what was renamed or removed stays so."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file durably; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted calls of `replacing` left in a folder that nobody else writes to."""
    for part in folder.glob(f".*{_PART}"):
        os.unlink(part)
