"""The TEE process behind an engine, or behind several that share it."""

import os
import threading
from dataclasses import dataclass

from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.sealed.newest import NewestVersions
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import CostLedger, TeeClient, TeeError

_LAYER_US = 300  # a layer of a small model takes less


@dataclass(slots=True)
class TeeProcess:
    """A TEE process that was started.

    Attributes:
        client: calls on it.
        store: the sealed objects of the device, None without one.
        newest: which of the device's sealed files are the newest.
        users: engines on it.
    """

    client: TeeClient
    store: SealedStore | None = None
    newest: NewestVersions | None = None
    users: int = 0

    def close(self) -> None:
        """End it, and let go of the device's folder. Idempotent."""
        (self.store or self.client).close()


class TeeHost:
    """Starts the TEE that engines stand on. Thread-safe.

    It ends with its last user. One that died is started anew for the first engine that asks, with
    new keys, and the others on it find theirs dead.

    Args:
        config: of the first engine; its device is every other's too.
        debug_root_key: 32 bytes; tests only.

    Attributes:
        ledger: what was asked of the TEE by all engines, of those that died before it too.

    Security: engines share the process and not their keys. A model's permutations and each
        session's key are drawn by themselves, under numbers of the device that are given out once;
        the key of a saved session belongs to its model.
    """

    def __init__(self, config: EngineConfig, debug_root_key: bytes | None = None) -> None:
        if debug_root_key is not None and config.tee_state is not None:
            raise InputError("a debug root key and tee_state: the state's fuses hold the root key")
        self._folder, self._debug_root_key = config.tee_state, debug_root_key
        self._poll_us = _poll_us(config)
        self._lock = threading.Lock()
        self._process: TeeProcess | None = None
        self._owner_pid = os.getpid()
        self.ledger = CostLedger()

    @property
    def folder(self) -> str | os.PathLike[str] | None:
        """The device's state folder, None without one."""
        return self._folder

    @property
    def is_debug(self) -> bool:
        """Whether it has a debug root key: its epochs would start again in a second process."""
        return self._debug_root_key is not None

    @property
    def store(self) -> SealedStore | None:
        """The sealed objects of the device while a process runs, else None."""
        with self._lock:
            alive = self._process is not None and self._process.client.alive()
            return self._process.store if self._process is not None and alive else None

    def take(self) -> TeeProcess:
        """Return the process that runs, or start one; `give_back` it.

        Raises:
            EngineError: it does not start, or another program uses the device.
            SecurityError: the device's counter was removed or changed.
        """
        with self._lock:
            if self._process is not None and not self._process.client.alive():
                self._process.close()
                self._process = None
            if self._process is None:
                self._process = self._start()
            self._process.users += 1
            return self._process

    def give_back(self, process: TeeProcess) -> None:
        """Let go of a process that was taken; the last user ends it. Once for each `take`.

        A forked child lets go of its copies at once: it ends nothing.
        """
        if os.getpid() != self._owner_pid:  # asked first: the lock may have been copied as held
            process.close()
            return
        with self._lock:
            process.users -= 1
            if process.users > 0:
                return
            if self._process is process:
                self._process = None
            process.close()

    def _start(self) -> TeeProcess:
        if self._folder is not None:
            store = SealedStore.open(self._folder, ledger=self.ledger, poll_us=self._poll_us)
            return TeeProcess(store.tee, store, NewestVersions(store))
        try:
            return TeeProcess(
                TeeClient.launch(
                    "core",
                    debug_root_key=self._debug_root_key,
                    ledger=self.ledger,
                    poll_us=self._poll_us,
                )
            )
        except TeeError as error:
            raise EngineError(f"the TEE could not be started: {error}") from None


def _poll_us(config: EngineConfig) -> int:
    """Let the TEE poll where it is called every layer and the engine leaves it a core.

    Waking it would take a third of a crossing's time. On a core that the engine's threads need,
    its polling would cost more than that.
    """
    cores = len(os.sched_getaffinity(0))
    return _LAYER_US if config.restores_in_tee and config.threads < cores else 0
