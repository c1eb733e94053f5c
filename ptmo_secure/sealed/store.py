"""Objects under names, sealed by the TEE of one device, as files in its state folder.

    fuses               the device's root key: written and read by the TEE alone
    counter             the rollback counter's record
    objects/NAME.sealed
    audit/*.log         what the TEE of each start was asked (`sealed.kept_log`)

`put` writes the object first and the record after it. An interrupted `put` leaves the old object or
the new one; the next `open` takes over what is one ahead of the record.

Security: names, sizes and times are in the clear. What somebody can do who changes these files, or
this program, is told in docs/tee.md.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from ptmo_secure.errors import EngineError, InputError, PtmoError, SecurityError, TeeDiedError
from ptmo_secure.sealed import files
from ptmo_secure.sealed.kept_log import keep_log
from ptmo_secure.sealed.lock import FolderLock
from tee_sim.client import (
    MAX_OBJECT_BYTES,
    CostLedger,
    CounterState,
    ResultCode,
    TeeClient,
    TeeDeadError,
    TeeError,
)

_MAX_FILE_BYTES = MAX_OBJECT_BYTES + 1024  # more is not read, and refused for its length
_HEADER_BYTES = 256  # at least an object's header
_LOCK_SECONDS = 2.0  # one program after another finds the device free
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".sealed"


class _Reserved(str):
    """The name of an object of our own, which no user's can be."""

    __slots__ = ()


VERSIONS = _Reserved("_versions")  # of `sealed.newest`
_TAMPERED = {
    ResultCode.BAD_FORMAT: "not a file of this kind and version",
    ResultCode.TRUNCATED: "cut short, lengthened, or removed while the counter names it",
    ResultCode.MAC_INVALID: "changed, or sealed by another device",
    ResultCode.WRONG_OBJECT: "the file of another object",
    ResultCode.ROLLED_BACK: "an older version than the newest",
    ResultCode.COUNTER_ROLLED_BACK: "unknown to the counter: its file was rolled back or "
    "replaced, or the object was removed before",
}


class SealedStore:
    """The objects of one device. Thread-safe. Made by `open`.

    Every method raises `SecurityError` that names the file and which check failed when a file was
    tampered with, and `EngineError` when the disk or the TEE fails.

    Attributes:
        tee: the device's TEE.
        guard: the guard that was started with it, under the device's storage key, or None.
    """

    def __init__(
        self, tee: TeeClient, folder: Path, folder_lock: FolderLock, *, keeps_log: bool
    ) -> None:
        """Use `open`."""
        self.tee = tee
        self.guard: TeeClient | None = None
        self._keeps_log = keeps_log
        self._calls = tee.open_store()
        self._counter_path = folder / "counter"
        self._objects = folder / "objects"
        self._folder_lock = folder_lock  # as long as this host may still write there
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()
        self._settled = False  # whether the files say what the TEE's counter says

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        create: bool = True,
        debug_root_key: bytes | None = None,
        ledger: CostLedger | None = None,
        poll_us: int = 50,
        with_guard: bool = False,
    ) -> "SealedStore":
        """Start the TEE of the device whose state is in `folder`, and bring the state in order.

        Args:
            folder: made (mode 0700) when it does not exist.
            create: make a device of a folder that holds none.
            debug_root_key: 32 bytes in the place of the fuses; tests only.
            ledger: counts on where an earlier TEE's calls stand.
            poll_us: as for `TeeClient.launch`.
            with_guard: start a guard as well, whose saved vaults this device opens again.

        Raises:
            InputError: the folder cannot be made, or holds no device and none is to be made.
            EngineError: the TEE does not start, or another program uses the folder.
            SecurityError: the fuses or the counter's record were removed, or that was changed.
        """
        if not os.fspath(folder):
            raise InputError("the state folder's path is empty")
        path = Path(folder).absolute()  # the working directory may change
        objects = path / "objects"
        if not create and not holds_device(path):
            raise InputError(f"{path}: no device keeps its sealed state there")
        with _file_errors(path, InputError):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            objects.mkdir(mode=0o700, exist_ok=True)
            folder_lock = FolderLock(objects, _LOCK_SECONDS)
        with contextlib.ExitStack() as undo:
            undo.callback(folder_lock.release)
            fuses = path / "fuses" if debug_root_key is None else None
            if fuses is not None and not os.path.lexists(fuses) and holds_device(path):
                raise SecurityError(
                    f"{fuses}: missing, though there is sealed state: put the file back; "
                    f"to start over as a new device, remove {path}"
                )
            guard: TeeClient | None = None
            try:
                if with_guard:
                    tee, guard = TeeClient.launch_both(
                        debug_root_key=debug_root_key, fuses=fuses, ledger=ledger, poll_us=poll_us
                    )
                    undo.callback(guard.close)
                else:
                    tee = TeeClient.launch(
                        debug_root_key=debug_root_key, fuses=fuses, ledger=ledger, poll_us=poll_us
                    )
            except TeeError as error:
                raise EngineError(str(error)) from None
            undo.callback(tee.close)
            store = cls(tee, path, folder_lock, keeps_log=fuses is not None)
            store.guard = guard
            store._start()
            undo.pop_all()
            return store

    def __enter__(self) -> "SealedStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the TEE, and the guard, when the call under way is over: no file changes any more.

        Its log is kept, where it still answers. Idempotent. A forked child only lets go of its
        copies.
        """
        if self.guard is not None:
            self.guard.close()
        if self._is_inherited():
            self.tee.close()
            return
        with self._lock:
            try:
                if self._keeps_log and self.tee.alive():
                    with contextlib.suppress(TeeError, OSError):
                        keep_log(self.tee, self._counter_path.parent, self._calls.state().boots)
            finally:
                self.tee.close()
                self._folder_lock.release()

    @property
    def lock(self) -> threading.RLock:
        """Hold it for steps that belong together.

        Raises:
            EngineError: in a forked child.
        """
        if self._is_inherited():  # asked first: the fork may have copied the lock as held
            raise EngineError("a forked process cannot use its parent's sealed storage")
        return self._lock

    def _is_inherited(self) -> bool:
        return os.getpid() != self._owner_pid

    def names(self) -> list[str]:
        """Return the names of the stored objects, sorted, as the folder shows them."""
        return sorted(path.stem for path in self._files() if path.stem != VERSIONS)

    def path_of(self, name: str) -> Path:
        """Return where an object is stored; raise InputError for a bad name."""
        return self._place(name)[0]

    def state(self) -> CounterState:
        """Return where the device's rollback counter stands."""
        with self.lock, self._settled_files(), _tee_errors(self._counter_path):
            return self._calls.state()

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, in the place of what stood there, durably.

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores, not beginning with a mark.
            data: up to 8 MiB.

        Raises:
            InputError: a bad name, or data too long.
        """
        path, object_id = self._place(name)
        if not isinstance(data, bytes):
            raise InputError(f"{name}: data is {type(data).__name__}, not bytes")
        if len(data) > MAX_OBJECT_BYTES:
            raise InputError(f"{name}: {len(data)} bytes, at most {MAX_OBJECT_BYTES} are sealed")
        with self._changing(path):
            self._write(path, self._calls.seal(object_id, data))
            self._write(self._counter_path, self._calls.commit(object_id))

    def get(self, name: str) -> bytes:
        """Return what was stored under `name` last.

        Raises:
            InputError: a bad name, or nothing is stored under it.
        """
        path, object_id = self._place(name)
        with self.lock, self._settled_files(), _tee_errors(path):
            return self._calls.unseal(object_id, self._read(path))

    def remove(self, name: str) -> None:
        """Remove an object; no version of it is accepted any more.

        Raises:
            InputError: a bad name, or nothing is stored under it.
        """
        path, object_id = self._place(name)
        with self._changing(path):
            with _file_errors(path):
                files.remove(path)
            self._write(self._counter_path, self._calls.forget(object_id))

    def file_key(self, fd: int, size_bytes: int, offset: int, file_id: bytes) -> None:
        """Have the TEE write the 32-byte key of a sealed file into a secret arena.

        Security: the key never becomes a Python object here; wiping it is the caller's.

        Args:
            fd, size_bytes: of the arena, which the TEE lets go of again.
            offset: where to.
            file_id: 16 bytes drawn for the file.
        """
        with _tee_errors(self._counter_path):
            region = self.tee.register_fd(fd, size_bytes)
            try:
                self._calls.file_key(region, offset, file_id)
            finally:
                self.tee.release_fd(region)

    def _start(self) -> None:
        record = self._read(self._counter_path)
        if not record and self._files():
            raise SecurityError(f"{self._counter_path}: missing, though there are sealed objects")
        with _tee_errors(self._counter_path):
            self._calls.start(record)
        for folder in (self._counter_path.parent, self._objects):
            with _file_errors(folder):
                files.remove_leftovers(folder)
        self._settle()

    def _settle(self) -> None:
        """Take over an object that was stored and not committed, and store the record."""
        for path in self._files():
            object_id = _object_id(path.stem)
            with contextlib.suppress(TeeError, EngineError):  # damaged: `get` will say so
                if self._calls.is_newer(self._read(path, _HEADER_BYTES)):
                    self._take_over(path, object_id)
        with _tee_errors(self._counter_path):
            self._write(self._counter_path, self._calls.counter())
        self._settled = True

    def _take_over(self, path: Path, object_id: bytes) -> None:
        """Have the TEE look at an object that says it is newer than the record."""
        try:
            self._calls.unseal(object_id, self._read(path))
        except TeeError as error:
            if error.code == ResultCode.COUNTER_ROLLED_BACK:  # and authentic: the record is old
                raise tampered(path, ResultCode.COUNTER_ROLLED_BACK) from None
            raise

    @contextlib.contextmanager
    def _settled_files(self) -> Iterator[None]:
        if not self._settled:
            self._settle()
        yield

    @contextlib.contextmanager
    def _changing(self, path: Path) -> Iterator[None]:
        """Whatever interrupts the block leaves files that are settled before the next call.

        A store that was closed has a successor, whose files they may be by now: they stay as they
        are. Until then the folder's lock keeps a successor out, also when the TEE has died.
        """
        with self.lock, self._settled_files(), _tee_errors(path):
            if not self.tee.alive():
                raise TeeDiedError
            self._settled = False
            yield
            self._settled = True

    def _files(self) -> list[Path]:
        with _file_errors(self._objects):
            found = [path for path in self._objects.iterdir() if path.suffix == _SUFFIX]
        return [path for path in found if path.stem == VERSIONS or _NAME.fullmatch(path.stem)]

    def _place(self, name: str) -> tuple[Path, bytes]:
        if not isinstance(name, _Reserved) and not (
            isinstance(name, str) and _NAME.fullmatch(name)
        ):
            raise InputError(f"{name!a} is no object's name: give 1 to 64 of A-Z a-z 0-9 . _ -")
        return self._objects / f"{name}{_SUFFIX}", _object_id(name)

    def _read(self, path: Path, n_bytes: int = _MAX_FILE_BYTES) -> bytes:
        """Return a file's bytes; none for one that is not there, which the TEE will judge."""
        with _file_errors(path):
            try:
                with path.open("rb") as file:
                    return file.read(n_bytes)
            except FileNotFoundError:
                return b""

    def _write(self, path: Path, data: bytes) -> None:
        with _file_errors(path), files.replacing(path) as file:
            file.write(data)


def holds_device(folder: Path) -> bool:
    """Whether a device keeps, or kept, its state in a folder; nothing is started or made."""
    if any(os.path.lexists(folder / name) for name in ("fuses", "counter")):
        return True
    with contextlib.suppress(OSError):
        return any(path.suffix == _SUFFIX for path in (folder / "objects").iterdir())
    return False


def tampered(path: Path, code: ResultCode, detail: str = "") -> SecurityError:
    """Return the error that says what is wrong with a sealed file.

    Args:
        path: the file.
        code: of the check that failed.
        detail: put after what the code means.
    """
    return SecurityError(f"{path}: {_TAMPERED[code]}{detail} ({code.name})")


def _object_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@contextlib.contextmanager
def _file_errors(path: Path, kind: type[PtmoError] = EngineError) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _tee_errors(path: Path) -> Iterator[None]:
    """Say of a refusal which file was refused, and what is wrong with it."""
    try:
        yield
    except TeeDeadError:
        raise TeeDiedError from None
    except TeeError as error:
        if error.code == ResultCode.ITEM_NOT_FOUND:
            raise InputError(f"{path}: no such sealed object") from None
        if error.code in _TAMPERED:
            raise tampered(path, ResultCode(error.code)) from None
        raise EngineError(f"{path}: {error}") from None
