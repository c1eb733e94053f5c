"""The log of what left the device: one JSON object a line, chained by hash, durable at once.

Each record holds the MAC of the one before it, and its own:

    mac = HMAC-SHA256(key, prev || canonical JSON of the other fields)

The key is drawn when the log is begun and kept beside it. So a changed, removed, inserted or
swapped record is found by `verify`, except where records are cut off the end: note the head (`ptmo
audit --verify` shows it) and give it to `ptmo audit --verify --head` to find that too.

Security: a record holds sizes, codes, kinds and keyed hashes; never text. Whoever has the key can
guess bodies, and could write a log of his own: against the owner of the account it is no evidence.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ptmo_secure.errors import EngineError, InputError, SecurityError

NAME, KEY_NAME = "egress.jsonl", "egress.key"
GENESIS = "0" * 64
ROTATE_BYTES = 8 << 20
_KEY_BYTES = 32
_MAX_LINE_BYTES = 16 << 10
_USER_HEX = 16


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """One request that left, or was about to.

    Args:
        number: from 1, without gaps.
        time: seconds since the epoch.
        decision: "sent" (handed to the socket) or "refused".
        code: why it was refused; "" for what was sent.
        place: where in the body what refused it stands; "" otherwise.
        provider, model: to whom.
        path: of the URL.
        bytes: of the body.
        body: HMAC-SHA256 of the body under the log's key, hexadecimal.
        kinds: how many placeholders of each kind it holds.
        why: what it was for, as the caller's code says.
        user, session: keyed hashes of their names.
    """

    number: int
    time: float
    decision: str
    code: str
    place: str
    provider: str
    model: str
    path: str
    bytes: int
    body: str
    kinds: Mapping[str, int]
    why: str
    user: str
    session: str
    mac: str = ""

    def as_json(self) -> dict[str, object]:
        """The record as `ptmo audit --json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What `EgressLog.append` is told; fields as in `EgressRecord`."""

    decision: str
    provider: str
    model: str
    path: str
    body: bytes
    why: str
    user: str
    session: str
    kinds: Mapping[str, int] = field(default_factory=dict)
    code: str = ""
    place: str = ""


_FIELDS = {item.name for item in fields(EgressRecord)}


class EgressLog:
    """A log in a folder. Thread-safe, also between programs.

    Args:
        folder: made when the first record is written.
        rotate_bytes: a file longer than this is put aside as `egress-NNNNNN.jsonl`, where NNNNNN is
            the number of its last record; the chain goes on in a new one.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        rotate_bytes: int = ROTATE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._rotate_bytes, self._clock = rotate_bytes, clock
        self._lock = threading.Lock()

    def append(self, entry: LogEntry) -> EgressRecord:
        """Write a record; when this returns it is on the disk.

        Raises:
            EngineError: it cannot be written.
            SecurityError: the end of the log is no record of this log's.
        """
        with self._lock, self._locked() as key:
            path = self.folder / NAME
            try:
                number, prev = self._end(path, key)
                record = self._record(entry, key, number + 1, prev)
                fresh = not path.exists()
                with open(path, "ab", opener=_private) as file:
                    file.write(_line(record, prev))
                    file.flush()
                    os.fsync(file.fileno())
                    size = file.tell()
                if fresh:
                    _sync_folder(self.folder)
                if size > self._rotate_bytes:
                    path.rename(self.folder / f"egress-{record.number:012d}.jsonl")
                    _sync_folder(self.folder)
            except OSError as error:
                raise EngineError(f"{path}: {error.strerror}") from None
            return record

    def records(self) -> Iterator[EgressRecord]:
        """Yield every record, oldest first, each checked against the one before it.

        Raises:
            InputError: there is no log.
            SecurityError: a record was changed, removed, inserted or swapped.
            EngineError: it cannot be read.
        """
        paths = _files(self.folder)
        if not paths:
            raise InputError(f"{self.folder}: nothing was logged there")
        key, prev, number = self._key(make=False), None, None
        for path in paths:
            for at, line in enumerate(_lines(path), 1):
                record, before = _checked(line, key, f"{path}:{at}")
                if number is not None and (before != prev or record.number != number + 1):
                    raise SecurityError(f"{path}:{at}: does not follow the record before it")
                if number is None and record.number == 1 and before != GENESIS:
                    raise SecurityError(f"{path}:{at}: a first record that follows another")
                prev, number = record.mac, record.number
                yield record

    def verify(self, head: str | None = None) -> tuple[int, str]:
        """Check the whole log.

        Args:
            head: a MAC noted earlier, which must still be in the log; finds what was cut off.

        Returns:
            How many records there are, and the MAC of the last.

        Raises:
            InputError, SecurityError, EngineError: as `records`, or the head is not there.
        """
        count, last, found, first = 0, GENESIS, head is None, 1
        for record in self.records():
            first = record.number if not count else first
            count, last = count + 1, record.mac
            found = found or hmac.compare_digest(record.mac, head or "")
        if not found:
            raise SecurityError(f"{self.folder}: the head noted earlier is not there any more")
        if first != 1:
            raise SecurityError(f"{self.folder}: the records before number {first} are gone")
        return count, last

    def _record(self, entry: LogEntry, key: bytes, number: int, prev: str) -> EgressRecord:
        record = EgressRecord(
            number,
            round(self._clock(), 3),
            entry.decision,
            entry.code,
            entry.place,
            entry.provider,
            entry.model,
            entry.path,
            len(entry.body),
            _mac(key, b"body", entry.body),
            dict(sorted(entry.kinds.items())),
            entry.why,
            _mac(key, b"user", entry.user.encode())[:_USER_HEX],
            _mac(key, b"session", entry.session.encode())[:_USER_HEX],
        )
        values = record.as_json() | {"mac": _chain(key, prev, record)}
        return EgressRecord(**values)  # type: ignore[arg-type]  # its own fields

    def _end(self, path: Path, key: bytes) -> tuple[int, str]:
        """Return number and MAC of the last record; a line that a crash cut off is taken away."""
        newest = path if path.exists() and path.stat().st_size else None
        if newest is None:
            aside = _files(self.folder)
            newest = aside[-1] if aside else None
        if newest is None:
            return 0, GENESIS
        with newest.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * _MAX_LINE_BYTES))
            whole, _, torn = file.read().rpartition(b"\n")
            if torn:  # it was never durable, so nothing was sent after it
                file.truncate(size - len(torn))
                os.fsync(file.fileno())
        if not whole:
            if newest == path:
                path.unlink()
                return self._end(path, key)
            raise SecurityError(f"{newest}: holds no record")
        record, _ = _checked(whole.rpartition(b"\n")[2], key, f"{newest}: the last record")
        return record.number, record.mac

    def _key(self, *, make: bool) -> bytes:
        path = self.folder / KEY_NAME
        try:
            if make and not path.exists():
                if _files(self.folder):
                    raise SecurityError(f"{path}: gone, so the log there cannot be gone on with")
                with open(path, "xb", opener=_private) as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                _sync_folder(self.folder)
            key = path.read_bytes()
        except FileNotFoundError:
            raise SecurityError(f"{path}: gone, so the log there cannot be checked") from None
        except OSError as error:
            raise EngineError(f"{path}: {error.strerror}") from None
        if len(key) != _KEY_BYTES:
            raise SecurityError(f"{path}: no key of a log")
        return key

    @contextmanager
    def _locked(self) -> Iterator[bytes]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EngineError(f"{self.folder}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield self._key(make=True)
        finally:
            os.close(fd)


def _files(folder: Path) -> list[Path]:
    aside = sorted(folder.glob("egress-*.jsonl"))
    return [*aside, *(path for path in (folder / NAME,) if path.exists())]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE_BYTES + 1):
                if line.endswith(b"\n"):
                    yield line[:-1]
                elif len(line) > _MAX_LINE_BYTES:
                    raise SecurityError(f"{path}: a line that is no record")
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None


def _checked(line: bytes, key: bytes, where: str) -> tuple[EgressRecord, str]:
    """Return a line's record and the MAC it says the one before it has."""
    try:
        values = json.loads(line)
        prev = values.pop("prev")
        if set(values) != _FIELDS or not isinstance(prev, str):
            raise ValueError
        record = EgressRecord(**values)
        good = hmac.compare_digest(_chain(key, prev, record), record.mac)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SecurityError(f"{where}: no record of this log") from None
    if not good or line != _line(record, prev)[:-1]:
        raise SecurityError(f"{where}: changed since it was written")
    return record, prev


def _line(record: EgressRecord, prev: str) -> bytes:
    return _canonical(record.as_json() | {"prev": prev}) + b"\n"


def _chain(key: bytes, prev: str, record: EgressRecord) -> str:
    values = record.as_json()
    del values["mac"]
    return _mac(key, b"record", prev.encode() + _canonical(values))


def _canonical(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _mac(key: bytes, purpose: bytes, data: bytes) -> str:
    return hmac.new(key, purpose + b"\0" + data, hashlib.sha256).hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # not every file system syncs folders
            os.fsync(fd)
    finally:
        os.close(fd)
