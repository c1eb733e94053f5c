"""Host side of registered memory: a sealed memfd mapped by both processes."""

import fcntl
import mmap
import os
from collections.abc import Callable

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ZEROS = bytes(1 << 16)


def create_sealed_memfd(size_bytes: int) -> int:
    """Create an anonymous file of fixed size; the caller owns the descriptor."""
    fd = os.memfd_create("ptmo-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class SharedMemory:
    """Memory the TEE reads and writes; made by `TeeClient.register_memory`.

    Security: the host and any process that can read the host see its content. `wipe` it as soon
    as the result is copied out.

    Args:
        memory_id: the TEE's name for it.
        fd: sealed memfd; closed here once mapped.
        size_bytes: length.
        release: called once by `close` to unregister the memory.
    """

    __slots__ = ("_map", "_release", "buffer", "id", "size_bytes")

    def __init__(
        self, memory_id: int, fd: int, size_bytes: int, release: Callable[[int], None]
    ) -> None:
        self.id = memory_id
        self.size_bytes = size_bytes
        self._release: Callable[[int], None] | None = release
        self._map = mmap.mmap(fd, size_bytes)
        self.buffer = memoryview(self._map)
        os.close(fd)

    def wipe(self, n_bytes: int | None = None) -> None:
        """Overwrite the first `n_bytes` (default: all) with zeros."""
        end = self.size_bytes if n_bytes is None else min(n_bytes, self.size_bytes)
        for at in range(0, end, len(_ZEROS)):
            step = min(len(_ZEROS), end - at)
            self.buffer[at : at + step] = _ZEROS[:step]

    def close(self) -> None:
        """Wipe, unregister and unmap; idempotent. The mapping outlives arrays made from it."""
        if self._release is None:
            return
        release, self._release = self._release, None
        self.wipe()
        release(self.id)
        self.buffer.release()
        try:
            self._map.close()
        except BufferError:
            pass  # an array still looks at it: unmapped when the last one goes
