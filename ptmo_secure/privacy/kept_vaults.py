"""Vaults that outlive the program: what a session masked now can be unmasked by another later.

    with KeptVaults.open("device") as kept:
        with kept.session("letter") as vault:
            print(vault.mask("Call Dr. Kim").text)

The guard seals a vault, the core seals that once more as an object of the device, and
`SealedStore` stores it. So a changed, older or swapped file is noticed by the device's rollback
counter, and what an attacker copies is ciphertext of which no old copy opens.

Security: neither this program's files nor the core hold a value. Names of users and sessions are
sealed as well; the number of sessions, their sizes and times are not.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ptmo_secure.errors import EngineError, InputError, SecurityError, TeeDiedError
from ptmo_secure.sealed.store import SealedStore, tampered
from tee_sim.client import (
    ResultCode,
    TeeClient,
    TeeDeadError,
    TeeError,
    Vault,
    VaultHeader,
    vault_header,
)

DEFAULT_TTL_S = 7 * 86_400
MAX_TTL_S = 30 * 86_400
MAX_NAME_CHARS = 200
_PREFIX = "vault-"
_TAMPERED = {
    ResultCode.BAD_FORMAT,
    ResultCode.TRUNCATED,
    ResultCode.MAC_INVALID,
    ResultCode.WRONG_OBJECT,
    ResultCode.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What is known of a session at rest without its values.

    Args:
        user, name: whose, and which.
        saved_s: when it was stored last, in seconds since 1970.
        ttl_s: seconds after that at which it is over.
        size_bytes: of the sealed vault.
    """

    user: str
    name: str
    saved_s: int
    ttl_s: int
    size_bytes: int

    def left_s(self, now_s: float) -> float:
        """Return the seconds that are left of it, by the clock of the wall."""
        return self.saved_s + self.ttl_s - now_s


class KeptVaults:
    """The sessions of one device. Thread-safe, one thread in a session at a time.

    Every method raises `SecurityError` when a file was tampered with, `EngineError` when disk, TEE
    or guard fail, and `InputError` for a bad name. After none of them was a value restored.
    """

    def __init__(self, store: SealedStore, guard: TeeClient) -> None:
        """Use `open`, or give a store and the guard that was started with it."""
        self._store, self._guard = store, guard
        self._locks: dict[str, threading.Lock] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, create: bool = True) -> "KeptVaults":
        """Start core and guard of the device whose state is in `folder`.

        Raises:
            as `SealedStore.open`.
        """
        store = SealedStore.open(folder, create=create, with_guard=True)
        if store.guard is None:
            raise EngineError("the device has no guard")
        return cls(store, store.guard)

    def __enter__(self) -> "KeptVaults":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End core and guard. Idempotent."""
        self._store.close()

    @contextlib.contextmanager
    def session(
        self, name: str, user: str = "", *, ttl_s: int = DEFAULT_TTL_S, create: bool = True
    ) -> Iterator[Vault]:
        """Open a session for the block; `keep` in it what the block changed.

        Args:
            name: of the session, which is made when there is none.
            user: whose it is.
            ttl_s: of a new one: seconds after it was stored last at which it is forgotten.
            create: False: a session that is not there is an `InputError`.

        Raises:
            InputError: also when its time is over; it is removed then.
        """
        place = _place(user, name)
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise InputError(f"a time to live of {ttl_s} s is outside 1..{MAX_TTL_S}")
        with self._locks.setdefault(place, threading.Lock()):
            vault = self._load(place, user, name)
            if vault is None and not create:
                raise InputError(f"no session {name!r} is kept{_whose(user)}")
            with _guard_errors(name):
                opened = vault or self._guard.open_vault(user, ttl_s)
            try:
                yield opened
            finally:
                opened.close()

    def keep(self, name: str, vault: Vault, user: str = "") -> None:
        """Store a session's vault in the place of what is stored; its time begins anew."""
        with _guard_errors(name):
            saved = vault.save()
        self._store.put(_place(user, name), json.dumps([user, name]).encode() + b"\n" + saved)

    def forget_value(self, name: str, placeholder: str, user: str = "") -> int:
        """Forget one value of a session, at rest as well; return in how many spellings."""
        with self.session(name, user, create=False) as vault:
            with _guard_errors(name):
                count = vault.forget(placeholder)
            self.keep(name, vault, user)
        return count

    def forget(self, name: str | None = None, user: str | None = None) -> int:
        """Remove sessions; no copy of their files is accepted any more. Return how many.

        Args:
            name: of one, which is removed also when its file was damaged; None: all.
            user: whose; None: everybody's, also those whose files were; with a name the user "".
        """
        if name is not None:
            places = [_place(user or "", name)]
        else:
            places = [p for p in self._places() if user is None or self._owner(p) == user]
        return sum(self._remove(place) for place in places)

    def sessions(self, user: str | None = None) -> list[KeptSession]:
        """Return the sessions at rest of a user or of all; those that are over are removed.

        Raises:
            SecurityError: one of them was tampered with; `forget` removes it.
        """
        found, now_s = [], time.time()
        for place in self._places():
            kept, _, _ = self._read(place)
            if kept.left_s(now_s) <= 0:
                self._remove(place)
            elif user in (None, kept.user):
                found.append(kept)
        return sorted(found, key=lambda kept: (kept.user, kept.name))

    def _places(self) -> list[str]:
        return [name for name in self._store.names() if name.startswith(_PREFIX)]

    def _owner(self, place: str) -> str | None:
        """Return whose a session is; None where its file cannot be read."""
        with contextlib.suppress(SecurityError):
            return self._read(place)[0].user
        return None

    def _remove(self, place: str) -> int:
        try:
            self._store.remove(place)
        except InputError:  # it is not there
            return 0
        return 1

    def _read(self, place: str) -> tuple[KeptSession, VaultHeader, bytes]:
        data = self._store.get(place)
        names, _, saved = data.partition(b"\n")
        header = vault_header(saved)
        try:
            user, name = json.loads(names)
        except ValueError:
            header = None
        if header is None or _place(user, name) != place:
            raise SecurityError(f"{place}: no session of this device")
        kept = KeptSession(user, name, header.saved_s, header.ttl_s, len(saved))
        return kept, header, saved

    def _load(self, place: str, user: str, name: str) -> Vault | None:
        """Return the vault of a session; None where there is none."""
        try:
            _, header, saved = self._read(place)
        except InputError:  # the TEE itself knows of no such object
            return None
        try:
            return self._guard.load_vault(saved, user, header.number)
        except TeeDeadError:
            raise TeeDiedError from None
        except TeeError as error:
            if error.code == ResultCode.EXPIRED:
                self._remove(place)
                raise InputError(
                    f"session {name!r}{_whose(user)}: its time is over, it was forgotten"
                ) from None
            if error.code == ResultCode.CLOCK_SET_BACK:
                raise SecurityError(
                    f"session {name!r}{_whose(user)}: stored later than it is now: set the clock"
                ) from None
            if error.code in _TAMPERED:
                path = self._store.path_of(place)
                raise tampered(path, ResultCode(error.code)) from None
            raise EngineError(f"session {name!r}: {error}") from None


def _place(user: str, name: str) -> str:
    """Return under which name a session is stored, which does not tell its own."""
    for what, text in (("session", name), ("user", user)):
        if len(text) > MAX_NAME_CHARS or (what == "session" and not text):
            raise InputError(f"a {what}'s name has 1 to {MAX_NAME_CHARS} characters")
    try:
        key = f"{len(user)} {user} {name}".encode()
    except UnicodeEncodeError:
        raise InputError("the name of a session or user is not valid Unicode") from None
    return _PREFIX + hashlib.sha256(key).hexdigest()[:40]


def _whose(user: str) -> str:
    return f" for {user!r}" if user else ""


@contextlib.contextmanager
def _guard_errors(name: str) -> Iterator[None]:
    try:
        yield
    except TeeDeadError:
        raise TeeDiedError from None
    except TeeError as error:
        if error.code == ResultCode.BAD_PARAMETERS:
            raise InputError(f"session {name!r}: {error}") from None
        raise EngineError(f"session {name!r}: {error}") from None
