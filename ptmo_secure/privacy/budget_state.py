"""Where a budget is kept: in memory, or as a sealed object of the device.

The object is JSON: {"version": 1, "latest": seconds, "users": {user: [[seconds, session, cost]]}}.
"""

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.errors import InputError, SecurityError

if TYPE_CHECKING:
    from ptmo_secure.sealed.store import SealedStore

OBJECT_NAME = "privacy-budget"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Spend:
    """One disclosure.

    Args:
        time: when, in seconds since the epoch.
        session: of which session.
        cost: epsilon.
    """

    time: float
    session: str
    cost: float


class BudgetState(Protocol):
    """Keeps the bytes of a budget."""

    def load(self) -> bytes | None:
        """Return what was saved last; None if nothing ever was."""

    def save(self, data: bytes) -> None:
        """Keep these bytes, durably if anything is."""

    def close(self) -> None:
        """Let go of what is held. Idempotent."""


class MemoryState:
    """State that ends with the object."""

    def __init__(self) -> None:
        self._data: bytes | None = None

    def load(self) -> bytes | None:
        """Return what was saved last."""
        return self._data

    def save(self, data: bytes) -> None:
        """Keep these bytes."""
        self._data = data

    def close(self) -> None:
        """Nothing is held."""


class SealedState:
    """State sealed by the TEE of a device, which notices a changed, removed or older file.

    Args:
        store: the device's, which stays the caller's; or what returns it each time, for a device
            whose TEE may be started anew.
        folder: of the device's state, opened at the first use; give one of the two.

    Every method raises `SecurityError` when the file was tampered with, and `EngineError` when the
    device cannot be used, also because another program uses it.
    """

    def __init__(
        self,
        store: "SealedStore | Callable[[], SealedStore] | None" = None,
        *,
        folder: Path | None = None,
    ) -> None:
        if (store is None) == (folder is None):
            raise InputError("give a store or a folder")
        self._find = store if callable(store) else None
        self._store = None if callable(store) else store
        self._folder, self._lent = folder, store is not None
        self._lock = threading.Lock()

    def load(self) -> bytes | None:
        """Return what was saved last; None on a device that never kept a budget."""
        store = self._open()
        try:
            return store.get(OBJECT_NAME)
        except InputError:  # the TEE itself knows of no such object
            return None

    def save(self, data: bytes) -> None:
        """Seal these bytes in the place of what was saved before."""
        self._open().put(OBJECT_NAME, data)

    def close(self) -> None:
        """End the device's TEE, if this object started it. Idempotent."""
        with self._lock:
            if not self._lent and self._store is not None:
                self._store.close()
                self._store = None

    def _open(self) -> "SealedStore":
        from ptmo_secure.sealed.store import SealedStore

        if self._find is not None:
            return self._find()
        with self._lock:
            if not self._lent and self._store is not None and not self._store.tee.alive():
                self._store.close()
                self._store = None
            if self._store is None:
                if self._folder is None:
                    raise InputError("this budget is closed")
                self._store = SealedStore.open(self._folder)
            return self._store


def encode(latest: float, users: Mapping[str, tuple[Spend, ...]]) -> bytes:
    """Return the bytes of a budget.

    Args:
        latest: the time up to which it was kept.
        users: their spends.
    """
    rows = {
        user: [[spend.time, spend.session, spend.cost] for spend in spends]
        for user, spends in users.items()
    }
    return json.dumps({"version": _VERSION, "latest": latest, "users": rows}).encode()


def decode(data: bytes) -> tuple[float, dict[str, tuple[Spend, ...]]]:
    """Return the time and the spends that bytes of a budget hold.

    Raises:
        SecurityError: they are of no budget; an unreadable one is not an empty one.
    """
    try:
        state = json.loads(data)
        if state["version"] != _VERSION:
            raise ValueError
        users = {
            user: tuple(
                Spend(_number(at), _name(session), _number(cost)) for at, session, cost in rows
            )
            for user, rows in state["users"].items()
        }
        return _number(state["latest"]), users
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SecurityError("the privacy budget's state cannot be read") from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return float(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
