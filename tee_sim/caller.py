"""What every call on a TEE process stands on: frames out, and memory both sides map."""

import os
from collections.abc import Callable

from tee_sim.channel import Channel
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.ledger import CostLedger
from tee_sim.protocol import NO_VALUES, Kind, MemoryKind, ParamType, Values, param_types
from tee_sim.shared_memory import SharedMemory, create_sealed_memfd

_ONE_VALUE = param_types(ParamType.VALUE_INPUT)


class Caller:
    """An open session with a trusted application, and the memory registered with its process."""

    def __init__(self, channel: Channel, session: int) -> None:
        """Take over a channel that `spawn.connect` opened, and its session number."""
        self._channel = channel
        self._session = session
        self._sessions: dict[tuple[int, int], int] = {}
        self._window: SharedMemory | None = None
        self.pid = channel.process.pid

    @property
    def crossings(self) -> int:
        """Commands sent so far, over every TEE that the ledger counted."""
        return self.ledger.crossings

    @property
    def ledger(self) -> CostLedger:
        """What was asked of the TEE, per session and command."""
        return self._channel.ledger

    def alive(self) -> bool:
        """Whether the TEE process is still there. Cheap: one poll, no round trip."""
        return self._channel.alive()

    def close(self) -> None:
        """End the TEE process; its keys go with it. Idempotent."""
        if self._channel.is_inherited():
            self._channel.close()  # a forked child lets go of its copy and touches nothing
            return
        with self._channel.lock:
            if self._window is not None:
                self._window.close()
                self._window = None
            self._channel.close()

    def register_memory(self, size_bytes: int) -> SharedMemory:
        """Make memory both sides map: a memfd that can neither shrink nor grow.

        Args:
            size_bytes: 1 byte to 128 MiB.
        """
        if size_bytes < 1:
            raise TeeError(
                ResultCode.BAD_PARAMETERS, Origin.API, f"shared memory of {size_bytes} bytes"
            )
        fd = create_sealed_memfd(size_bytes)
        try:
            memory_id = self._register(fd, size_bytes, MemoryKind.SHARED)
            return SharedMemory(memory_id, fd, size_bytes, self._release_memory)
        except BaseException:
            os.close(fd)
            raise

    def register_fd(self, fd: int, size_bytes: int) -> int:
        """Pass the engine's secret arena to the TEE, which will write seal keys into it.

        Args:
            fd: memfd_secret, or memfd with F_SEAL_SHRINK and F_SEAL_GROW; stays the caller's.
            size_bytes: length of the arena.

        Returns:
            The arena's id, for `new_epoch`.
        """
        return self._register(fd, size_bytes, MemoryKind.ARENA)

    def release_fd(self, arena_id: int) -> None:
        """Have the TEE let go of an arena passed by `register_fd`."""
        self._release_memory(arena_id)

    def _session_with(self, uuid: tuple[int, int]) -> int:
        """Return the session with another application of the process, opened when first needed."""
        with self._channel.lock:
            session = self._sessions.get(uuid)
            if session is None:
                session = self._sessions[uuid] = self._channel.open_session(uuid)
            return session

    def _invoke(
        self,
        command: int,
        types: int,
        values: Values,
        session: int | None = None,
        undo: Callable[[Values], object] | None = None,
    ) -> Values:
        return self._channel.call(
            Kind.INVOKE,
            getattr(command, "name", "command"),
            session=self._session if session is None else session,
            command=command,
            types=types,
            values=values,
            undo=undo,
        )

    def _register(self, fd: int, size_bytes: int, kind: MemoryKind) -> int:
        return self._channel.call(
            Kind.REGISTER_MEMORY,
            "register memory",
            types=_ONE_VALUE,
            values=(size_bytes, kind, *NO_VALUES[2:]),
            fds=(fd,),
            undo=lambda registered: self._release_memory(registered[0]),
        )[0]

    def _release_memory(self, memory_id: int) -> None:
        """Unregister; a TEE that is gone or refuses has forgotten the memory already."""
        try:
            self._channel.call(
                Kind.RELEASE_MEMORY,
                "release memory",
                types=_ONE_VALUE,
                values=(memory_id, *NO_VALUES[1:]),
            )
        except TeeError:
            pass

    def _shared_window(self, size_bytes: int) -> SharedMemory:
        """Return the client's own shared memory, replaced by a larger one when too small."""
        window = self._window
        if window is None or window.size_bytes < size_bytes:
            if window is not None:
                self._window = None
                window.close()
            window = self._window = self.register_memory(max(size_bytes, 1 << 16))
        return window
