"""TEE-side memory: the allocation budget, and the regions the host registered.

A registered region is the host's memory. Nothing in it can be trusted to hold still, so commands
copy in once, work on the copy, and write results last.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.protocol import ArenaKind, MemoryKind

BUDGET_BYTES = 32 << 20
MAX_REGIONS = 64
MAX_REGION_BYTES = 128 << 20
MAX_MAPPED_BYTES = 256 << 20
REQUIRED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SYS_MEMFD_SECRET = 447  # on every architecture
_ZEROS = bytes(1 << 16)


def wipe(*buffers: bytearray | memoryview) -> None:
    """Overwrite byte buffers with zeros in place.

    Security: reaches these bytes only; Python objects made from them earlier are out of reach.
    """
    for buffer in buffers:
        size = len(buffer)
        if size <= len(_ZEROS):
            buffer[:] = _ZEROS[:size]
            continue
        view = memoryview(buffer)
        for at in range(0, size, len(_ZEROS)):
            step = min(len(_ZEROS), size - at)
            view[at : at + step] = _ZEROS[:step]


class Budget:
    """Counts the bytes trusted applications hold against a hard limit (32 MiB, as on a device)."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int = BUDGET_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def charge(self, n_bytes: int) -> None:
        """Take `n_bytes`, or raise OUT_OF_MEMORY and take nothing."""
        if n_bytes < 0 or n_bytes > self.limit_bytes - self.used_bytes:
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TEE, f"no room for {n_bytes} bytes")
        self.used_bytes += n_bytes

    def refund(self, n_bytes: int) -> None:
        """Give back what `charge` took."""
        self.used_bytes -= n_bytes

    @contextlib.contextmanager
    def keeping(self, n_bytes: int) -> Iterator[None]:
        """As `charge`, for what the block comes to hold; whatever ends it early gives them back."""
        self.charge(n_bytes)
        try:
            yield
        except BaseException:
            self.refund(n_bytes)
            raise


class Region:
    """One registered descriptor. SHARED regions stay mapped; ARENA regions are mapped per write."""

    __slots__ = ("_fd", "_map", "kind", "size_bytes", "view")

    def __init__(self, fd: int, size_bytes: int, kind: MemoryKind) -> None:
        self.kind = kind
        self.size_bytes = size_bytes
        self._fd = fd
        self._map: mmap.mmap | None = None
        self.view = memoryview(b"")
        if kind is MemoryKind.SHARED:
            self._map = mmap.mmap(fd, size_bytes)
            self.view = memoryview(self._map)
            os.close(fd)
            self._fd = -1

    def write_secret(self, offset: int, secret: bytearray) -> None:
        """Write `secret` at `offset` of an ARENA region through a mapping made for this call.

        Security: the only way a key leaves the TEE, into memory the host's Python never reads.
        """
        if self.kind is not MemoryKind.ARENA:
            raise TeeError(ResultCode.ACCESS_DENIED, Origin.TEE, "not a secret arena")
        check_bounds(offset, len(secret), self.size_bytes)
        first = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(self._fd, offset + len(secret) - first, offset=first)
        except (OSError, ValueError):
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TEE, "arena cannot be mapped") from None
        with mapped:
            mapped[offset - first : offset - first + len(secret)] = secret

    def close(self) -> None:
        """Unmap and forget the descriptor; the host's memory keeps its content.

        What is still looked at, by the frames of an exception for one, is unmapped when that ends.
        """
        with contextlib.suppress(BufferError):
            self.view.release()
            if self._map is not None:
                self._map.close()
        self.view, self._map = memoryview(b""), None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_bounds(offset: int, size_bytes: int, region_bytes: int) -> None:
    """Refuse a range that does not lie wholly inside its region.

    Security: written as two comparisons without a sum, so that it also holds in fixed-width
    integers when it is ported.
    """
    if offset < 0 or size_bytes < 0 or offset > region_bytes or size_bytes > region_bytes - offset:
        raise TeeError(
            ResultCode.BAD_PARAMETERS,
            Origin.TEE,
            f"range {offset}+{size_bytes} lies outside a region of {region_bytes} bytes",
        )


def check_descriptor(fd: int, size_bytes: int, kind: MemoryKind) -> None:
    """Refuse memory that its owner could shrink under the TEE (a later touch would be SIGBUS).

    A memfd must carry F_SEAL_SHRINK and F_SEAL_GROW. memfd_secret has no seals and cannot be
    resized at all: it is accepted for ARENA only.

    Raises:
        TeeError: SECURITY for missing seals or another kind of file, BAD_PARAMETERS for the size.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise TeeError(ResultCode.SECURITY, Origin.TEE, "not a memory descriptor")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        if error.errno != errno.EINVAL or not _is_secretmem(fd) or kind is not MemoryKind.ARENA:
            raise TeeError(ResultCode.SECURITY, Origin.TEE, "not a memory descriptor") from None
    else:
        if seals & REQUIRED_SEALS != REQUIRED_SEALS:
            raise TeeError(ResultCode.SECURITY, Origin.TEE, "memory without size seals")
    if not 1 <= size_bytes <= min(info.st_size, MAX_REGION_BYTES):
        raise TeeError(
            ResultCode.BAD_PARAMETERS, Origin.TEE, f"region of {size_bytes} bytes is out of range"
        )


def _secretmem_device() -> int | None:
    """Return the device number that the files of memfd_secret have, and no others."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if fd < 0:
        return None
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


_SECRETMEM_DEVICE = _secretmem_device()  # asked now: the filter of a TEE allows it no more


def _is_secretmem(fd: int) -> bool:
    return os.fstat(fd).st_dev == _SECRETMEM_DEVICE


class MemoryTable:
    """The regions of one connection, by id. Ids are never reused."""

    def __init__(self) -> None:
        self._regions: dict[int, Region] = {}
        self._last_id = 0
        self._mapped_bytes = 0
        self.weakest_arena = ArenaKind.NONE  # since the start; released ones had keys, too

    def __len__(self) -> int:
        return len(self._regions)

    def register(self, fd: int, size_bytes: int, kind: MemoryKind) -> int:
        """Check, map and number a descriptor; takes ownership of `fd` also when it refuses."""
        try:
            if len(self._regions) >= MAX_REGIONS:
                raise TeeError(ResultCode.BUSY, Origin.TEE, "too many registered regions")
            check_descriptor(fd, size_bytes, kind)
            if size_bytes > MAX_MAPPED_BYTES - self._mapped_bytes:
                raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TEE, "too much registered memory")
            try:
                region = Region(fd, size_bytes, kind)
            except (OSError, ValueError):
                raise TeeError(
                    ResultCode.OUT_OF_MEMORY, Origin.TEE, "memory cannot be mapped"
                ) from None
        except TeeError:
            os.close(fd)
            raise
        self._last_id += 1
        self._regions[self._last_id] = region
        self._mapped_bytes += size_bytes
        if kind is MemoryKind.ARENA:
            arena = ArenaKind.MEMFD_SECRET if _is_secretmem(fd) else ArenaKind.MEMFD
            self.weakest_arena = max(self.weakest_arena, arena)
        return self._last_id

    def get(self, memory_id: int) -> Region:
        """Return a region, or raise ITEM_NOT_FOUND."""
        region = self._regions.get(memory_id)
        if region is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TEE, f"no memory {memory_id}")
        return region

    def shared_range(self, memory_id: int, offset: int, size_bytes: int) -> memoryview:
        """Return a bounds-checked writable view of SHARED memory."""
        region = self.get(memory_id)
        if region.kind is not MemoryKind.SHARED:
            raise TeeError(ResultCode.ACCESS_DENIED, Origin.TEE, "an arena is not shared memory")
        check_bounds(offset, size_bytes, region.size_bytes)
        return region.view[offset : offset + size_bytes]

    def release(self, memory_id: int) -> None:
        """Unmap one region and forget it."""
        region = self.get(memory_id)
        del self._regions[memory_id]
        self._mapped_bytes -= region.size_bytes
        region.close()
