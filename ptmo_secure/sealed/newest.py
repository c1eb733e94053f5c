"""Which version of a sealed file is the newest, for files that lie where the user wants them.

A saved session or a sealed model is too large for an object of the store. Its header holds an id
drawn for it alone, so SHA-256 of the header names one version; and the header is associated data of
every record, so the records of another version do not open under it. One object of the store,
`VERSIONS`, tells for each path which versions are accepted there: one, or two while a file is being
replaced. So the rollback counter, which dates the object, dates the files too.

Security: only the TEE reads the object. Who controls the files can deny, and choose between the
two versions that a crash left; docs/tee.md tells the rest.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ptmo_secure.errors import CapacityError, InputError
from ptmo_secure.sealed.files import replacing
from ptmo_secure.sealed.store import VERSIONS, SealedStore, tampered
from tee_sim.client import ResultCode

MAX_FILES = 1024

_Versions = dict[str, list[str]]  # path: hex digests of the headers accepted there


class NewestVersions:
    """The newest versions of a device's sealed files. Thread-safe.

    Every method raises what `SealedStore.get` and `put` raise.
    """

    def __init__(self, store: SealedStore) -> None:
        self._store = store

    @contextlib.contextmanager
    def replacing(self, path: Path, header: bytes) -> Iterator[IO[bytes]]:
        """Write a new version of a file as `files.replacing` does, and make it the newest.

        While the file is put in place both versions are accepted: a crash leaves the old one or
        the new one, and the next `settle` drops the other. Other threads' changes wait meanwhile,
        so that of two versions put in one place at once the one that is there is accepted.

        Args:
            path: where it will stand.
            header: of the new version; what the block writes first.

        Raises:
            OSError: as `files.replacing`.
            CapacityError: `MAX_FILES` other files are known, and all are there.
        """
        with contextlib.ExitStack() as held:
            with replacing(path) as file:
                yield file
                held.enter_context(self._store.lock)
                self._announce(path, header)
            self.settle(path, header)

    def _announce(self, path: Path, header: bytes) -> None:
        versions, place = self._read(), _place(path)
        accepted = versions.get(place, [])
        on_disk = _digest(_first_bytes(path, len(header)))
        if on_disk in accepted:
            accepted = [on_disk]
        if place not in versions and len(versions) >= MAX_FILES:
            versions = {known: v for known, v in versions.items() if os.path.lexists(known)}
            if len(versions) >= MAX_FILES:
                raise CapacityError(
                    f"{path}: the device knows {MAX_FILES} sealed files: remove some of them"
                )
        self._write({**versions, place: [*accepted, _digest(header)]})

    def settle(self, path: Path, header: bytes) -> None:
        """Accept this version alone of those that a crash may have left.

        One that is no longer accepted changes nothing: it was replaced while it was read.
        """
        with self._store.lock:
            versions, digest = self._read(), _digest(header)
            accepted = versions.get(_place(path), [])
            if digest in accepted and accepted != [digest]:
                self._write({**versions, _place(path): [digest]})

    @property
    def lock(self) -> threading.RLock:
        """Hold it, and no other thread puts another version in place."""
        return self._store.lock

    def knows(self, path: Path) -> bool:
        """Whether a version was sealed for this path."""
        return _place(path) in self._read()

    def check(self, path: Path, header: bytes, authentic: Callable[[], bool]) -> None:
        """Accept a header only if it is that of the newest version of its file.

        A path under which nothing was sealed takes a file that is the newest of its own path: a
        copy, or one that was moved.

        Args:
            path: where the file was found.
            header: its header.
            authentic: whether the file's first record opens under the header; asked only to name
                what is wrong.

        Raises:
            SecurityError: WRONG_OBJECT, the newest version of another file; MAC_INVALID, changed
                or another device's; ROLLED_BACK, an older version; COUNTER_ROLLED_BACK, a version
                of this device's that it does not know.
        """
        versions, digest = self._read(), _digest(header)
        here = versions.get(_place(path))
        elsewhere = [place for place, accepted in versions.items() if digest in accepted]
        if digest in (here or ()) or (here is None and elsewhere):
            return
        if elsewhere:
            raise tampered(path, ResultCode.WRONG_OBJECT, f", sealed as {elsewhere[0]}")
        if not authentic():
            raise tampered(path, ResultCode.MAC_INVALID)
        code = ResultCode.ROLLED_BACK if here else ResultCode.COUNTER_ROLLED_BACK
        raise tampered(path, code)

    def _read(self) -> _Versions:
        with contextlib.suppress(InputError):  # no such object: the counter knows of none
            versions: _Versions = json.loads(self._store.get(VERSIONS))
            return versions
        return {}

    def _write(self, versions: _Versions) -> None:
        self._store.put(VERSIONS, json.dumps(versions, separators=(",", ":")).encode())


def _place(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def _digest(header: bytes) -> str:
    return hashlib.sha256(header).hexdigest()


def _first_bytes(path: Path, n_bytes: int) -> bytes:
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would be waited for
            with path.open("rb") as file:
                return file.read(n_bytes)
    return b""
