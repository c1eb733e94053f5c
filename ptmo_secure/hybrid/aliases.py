"""Other names for names of functions and their arguments that must not leave the device."""

import re
import secrets
import threading
from typing import Literal

from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.memory import Recent, keyed

Named = Literal["tool", "input"]
_FORM = re.compile(r"(?:tool|input)_[0-9]+", re.IGNORECASE)
_MAX_VAULTS, _MAX_NAMES = 1024, 4096


def is_alias(name: str) -> bool:
    """Whether a name has the form of an alias; such a name always gets one, so none means two."""
    return _FORM.fullmatch(name) is not None


class Aliases:
    """Gives names like "tool_1" and "input_2", the same ones for as long as a vault lasts.

    Thread-safe.

    Security: keeps keyed hashes of names. What an alias tells is that there is such a name, and
    whether it was told before under the same vault.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._given: Recent[dict[bytes, str]] = Recent(_MAX_VAULTS)

    def of(self, vault: int, kind: Named, name: str) -> str:
        """Return the alias of a name.

        Raises:
            InputError: more names than a conversation can have were given one.
        """
        hashed, key = keyed(self._salt, kind, name), vault.to_bytes(8, "little")
        with self._lock:
            given = self._given.get(key) or {}
            if hashed not in given:
                if len(given) >= _MAX_NAMES:
                    raise InputError(f"more than {_MAX_NAMES} names of tools need other ones")
                number = 1 + sum(alias.startswith(kind) for alias in given.values())
                given[hashed] = f"{kind}_{number}"
                self._given.put(key, given)
            return given[hashed]
