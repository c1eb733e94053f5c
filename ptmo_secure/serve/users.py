"""Who asks: API keys, kept as hashes in a file, and the opaque names of users and sessions."""

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.sealed.files import replacing

KEYS_FILE = "keys.json"
_SECRET_FILE = "names.key"  # noqa: S105 - a file's name
_PREFIX = "ptmo-"
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_SECRET_BYTES = 32
_MAX_KEYS = 1024
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: its hash, never the key.

    Args:
        id: names it in lists and logs.
        name: whose it is, as the operator wrote it.
        sha256: of the whole key, hex. A key has 256 random bits, so a plain hash is enough.
        created: seconds since 1970.
        adapters: LoRA adapters that its requests may name.
    """

    id: str
    name: str
    sha256: str
    created: int
    adapters: tuple[str, ...] = ()


LOCAL_KEY = ApiKey("local", "local", "", 0)
"""Stands for whoever asks a server without keys, which only listens on loopback."""


class KeyFile:
    """API keys in a file of mode 0600; changes take effect at the next request.

    Args:
        path: of the file; it need not be there.

    Raises:
        InputError: the file is readable or writable by others, or is no key file.

    Security: a presented key is hashed and compared with every hash in constant time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None  # of the file as it was read
        self._keys: tuple[ApiKey, ...] = ()
        self.keys()

    def keys(self) -> tuple[ApiKey, ...]:
        """Return the keys there are now."""
        with self._lock:
            try:
                status = os.stat(self._path)
            except FileNotFoundError:
                self._seen, self._keys = None, ()
                return ()
            except OSError as error:
                raise InputError(f"{self._path}: {error.strerror}") from None
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
                    raise InputError(f"{self._path}: others may read or change it: chmod 600 it")
                self._keys, self._seen = _read_keys(self._path), seen
            return self._keys

    @property
    def asked_for(self) -> bool:
        """Whether there is a file: without one nobody is asked, with one also when it is empty."""
        self.keys()
        return self._seen is not None

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that a client presented; None if there is none such."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for key in self.keys():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def add(self, name: str, adapters: Sequence[str] = ()) -> tuple[ApiKey, str]:
        """Make a key; returns what is kept of it and the key itself, which is nowhere else.

        Raises:
            InputError: a bad name, or too many keys.
        """
        if _NAME.fullmatch(name) is None:
            raise InputError(
                f"key name {name!a} is not 1 to 64 ASCII letters, digits, '_', '.', '@', '-'"
            )
        keys = self.keys()
        if len(keys) >= _MAX_KEYS:
            raise InputError(f"{self._path}: there are {_MAX_KEYS} keys: revoke some")
        secret = f"{_PREFIX}{secrets.token_urlsafe(_SECRET_BYTES)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = ApiKey(secrets.token_hex(4), name, digest, int(time.time()), tuple(adapters))
        self._write([*keys, key])
        return key, secret

    def revoke(self, which: str) -> int:
        """Remove keys by id or name; returns how many.

        Raises:
            InputError: there is none such.
        """
        keys = self.keys()
        left = [key for key in keys if which not in (key.id, key.name)]
        if len(left) == len(keys):
            raise InputError(f"{self._path}: no key {which!a}: see ptmo serve keys list")
        self._write(left)
        return len(keys) - len(left)

    def _write(self, keys: Sequence[ApiKey]) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(json.dumps({"keys": [asdict(key) for key in keys]}, indent=1).encode())
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from None


def _read_keys(path: Path) -> tuple[ApiKey, ...]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_FILE_BYTES))["keys"]
        keys = tuple(ApiKey(**{**each, "adapters": tuple(each["adapters"])}) for each in found)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: not a key file of ptmo serve") from None
    if not all(isinstance(key.sha256, str) and len(key.sha256) == 64 for key in keys):
        raise InputError(f"{path}: not a key file of ptmo serve")
    return keys


class Names:
    """Turns who asks into opaque names, under a secret of this server's.

    So that names of users stand in no file name, log or record; and one key's users are never
    another's, whatever they are called.

    Args:
        folder: where the secret is kept; None draws one for this process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._secret = secrets.token_bytes(_SECRET_BYTES) if folder is None else _secret(folder)

    def user(self, key: ApiKey, user: str | None) -> str:
        """Return the name of a key's user, 32 hex digits."""
        return self._name("user", key.id, user or "")

    def session(self, key: ApiKey, user: str | None, session: str | None) -> str:
        """Return the name of a user's session, 32 hex digits."""
        return self._name("session", key.id, user or "", session or "")

    def _name(self, *parts: str) -> str:
        text = json.dumps(parts).encode()  # tells ("a", "bc") from ("ab", "c")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]


def _secret(folder: Path) -> bytes:
    path = folder / _SECRET_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with replacing(path) as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
        secret = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(secret) != _SECRET_BYTES:
        raise EngineError(f"{path}: not {_SECRET_BYTES} bytes: remove it to have it drawn anew")
    return secret
