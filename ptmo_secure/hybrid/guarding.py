"""One guard process for all who need it: verdicts, vaults of sessions, the check at egress."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from tee_sim.client import ResultCode, ScanResult, TeeClient, TeeError, Vault

MAX_OPEN = 200  # vaults; a guard holds 256
_OF_THE_TEXT = frozenset({ResultCode.BAD_FORMAT, ResultCode.OUT_OF_MEMORY})


class SharedGuard:
    """A guard that starts when it is needed, and anew after it failed. Thread-safe.

    Args:
        launch: starts one; None: a process of its own.

    Security: a guard that failed is ended, and its vaults with it: nothing that it masked can be
    restored any more. Texts are masked anew by the next one.
    """

    def __init__(self, launch: Callable[[], TeeClient] | None = None) -> None:
        self._launch = launch or _launch
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # so that a session gets one vault
        self._guard: TeeClient | None = None
        self._vaults: OrderedDict[tuple[str, str], Vault] = OrderedDict()

    def scan(self, text: str) -> ScanResult:
        """Find what is private in a text.

        Raises:
            TeeError: the guard cannot be started, refused or died.
        """
        guard = self._live()
        try:
            return guard.scan(text)
        except Exception as failure:
            self._failed(guard, failure)
            raise

    def vault(self, user: str, session: str) -> Vault:
        """Return the vault of a user's session, made at its first use and after its time was over.

        Of more than `MAX_OPEN` the one that was not used for longest is closed: that session's
        placeholders begin at 1 again.

        Raises:
            TeeError: as `scan`.
        """
        guard, place = self._live(), (user, session)
        with self._opening:
            with self._lock:
                known = self._vaults.get(place)
            try:
                if known is not None and _is_open(known):
                    return self._keep(place, known)
                return self._keep(place, guard.open_vault(user))
            except Exception as failure:
                self._failed(guard, failure)
                raise

    def forget(self, user: str, session: str) -> None:
        """Let go of all that a session masked. Idempotent."""
        with self._lock:
            vault = self._vaults.pop((user, session), None)
        if vault is not None:
            vault.close()

    def failed(self) -> None:
        """End the guard after a vault of it failed; the next call starts another."""
        with self._lock:
            guard = self._guard
        if guard is not None and not guard.alive():
            self._drop(guard)

    def close(self) -> None:
        """End the guard. Idempotent."""
        with self._lock:
            guard = self._guard
        if guard is not None:
            self._drop(guard)

    def _live(self) -> TeeClient:
        with self._lock:
            if self._guard is None:
                self._guard = self._launch()
            return self._guard

    def _keep(self, place: tuple[str, str], vault: Vault) -> Vault:
        with self._lock:
            self._vaults[place] = vault
            self._vaults.move_to_end(place)
            old = [
                self._vaults.popitem(last=False)[1]
                for _ in range(max(0, len(self._vaults) - MAX_OPEN))
            ]
        for each in old:
            each.close()
        return vault

    def _failed(self, guard: TeeClient, failure: Exception) -> None:
        if not (isinstance(failure, TeeError) and failure.code in _OF_THE_TEXT):
            self._drop(guard)

    def _drop(self, guard: TeeClient) -> None:
        with self._lock:
            if self._guard is guard:
                self._guard = None
                self._vaults.clear()
        guard.close()


def _is_open(vault: Vault) -> bool:
    try:
        vault.check("", scan=False)
    except TeeError as error:
        if error.code == ResultCode.ITEM_NOT_FOUND:
            return False
        raise
    return True


def _launch() -> TeeClient:
    return TeeClient.launch("guard", poll_us=0)
