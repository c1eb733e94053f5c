"""The TEE's own memory for keys that outlive a call: memfd_secret, else locked memory.

Of a memfd_secret the kernel gives nobody a second view: /proc/PID/mem and process_vm_readv fail
there, for root as well. Keys of one call are derived into byte arrays and overwritten before it
ends.
"""

import ctypes
import mmap
import os

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import wipe

SLOT_BYTES = 32
MEMORY_BYTES = 16 * mmap.PAGESIZE
_SYS_MEMFD_SECRET = 447  # on every architecture
_MADV_DONTDUMP, _MADV_DONTFORK = 16, 10
_MAP_FAILED = ctypes.c_void_p(-1).value


class KeptKey:
    """A key of 32 bytes in its slot. Made by `SecretMemory.keep`.

    Security: `view` is the key; it does not print, and pickles to nothing.
    """

    __slots__ = ("_index", "_memory", "view")

    def __init__(self, memory: "SecretMemory", index: int, view: memoryview) -> None:
        """Use `SecretMemory.keep`."""
        self._memory = memory
        self._index = index
        self.view = view

    def drop(self) -> None:
        """Overwrite the key and give the slot back. Idempotent."""
        if self._index >= 0:
            wipe(self.view)
            self._memory.give_back(self._index)
            self._index = -1

    def __reduce__(self) -> str:
        raise TypeError("a key in the secret memory cannot be copied out")


class SecretMemory:
    """Slots of 32 bytes: 2,048 on pages of 4 KiB.

    Attributes:
        kind: "memfd_secret", "mlock", or "plain" where nothing may be locked either.

    Security: "memfd_secret" as above; "mlock" keeps it out of swap and core files, no more.
    """

    def __init__(self, *, allow_memfd_secret: bool = True) -> None:
        """Map the memory.

        Raises:
            MemoryError: there is none.
        """
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        self._address = _map_secret(libc) if allow_memfd_secret else None
        self.kind = "memfd_secret"
        if self._address is None:
            self._address = _map(libc, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
            if self._address is None:
                raise MemoryError
            locked = libc.mlock(ctypes.c_void_p(self._address), MEMORY_BYTES) == 0
            self.kind = "mlock" if locked else "plain"
        for advice in (_MADV_DONTDUMP, _MADV_DONTFORK):
            libc.madvise(ctypes.c_void_p(self._address), MEMORY_BYTES, advice)
        self._page = memoryview((ctypes.c_ubyte * MEMORY_BYTES).from_address(self._address)).cast(
            "B"
        )
        self._free = list(range(MEMORY_BYTES // SLOT_BYTES))

    def __del__(self) -> None:
        if getattr(self, "_page", None) is not None:
            wipe(self._page)
            self._libc.munmap(ctypes.c_void_p(self._address), MEMORY_BYTES)

    def keep(self, key: bytearray) -> KeptKey:
        """Move a key into a slot: `key` itself is overwritten.

        Args:
            key: 32 bytes.

        Raises:
            TeeError: OUT_OF_MEMORY when every slot is taken; `key` is overwritten all the same.
        """
        try:
            if not self._free:
                raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TEE, "every key slot is taken")
            index = self._free[-1]
            view = self._page[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
            view[:] = key
            self._free.pop()
        finally:
            wipe(key)
        return KeptKey(self, index, view)

    def give_back(self, index: int) -> None:
        """Mark a slot as free: `KeptKey.drop` does."""
        self._free.append(index)


def _map_secret(libc: ctypes.CDLL) -> int | None:
    fd = libc.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if fd < 0:
        return None
    try:
        os.ftruncate(fd, MEMORY_BYTES)
        return _map(libc, mmap.MAP_SHARED, fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _map(libc: ctypes.CDLL, flags: int, fd: int) -> int | None:
    address: int = libc.mmap(None, MEMORY_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    return None if address == _MAP_FAILED else address
