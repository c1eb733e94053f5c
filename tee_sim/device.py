"""The simulated device: its unique key (HUK), its counter and the epochs both give rise to.

Without fuses the key is drawn at every start, and nothing outlives the process. With fuses it is
read from a file that the TEE itself makes the first time. A file stands in for fuses that only the
secure world can read; it protects nothing from whoever reads it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
import zlib

from tee_sim import keys
from tee_sim.counter import RollbackCounter
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import Budget, wipe
from tee_sim.secret_memory import SecretMemory

FUSE_MAGIC = b"PTMOFUSE"
FUSE_BYTES = len(FUSE_MAGIC) + keys.ROOT_KEY_BYTES + 4  # magic, key, CRC-32 of both
_MAX_RUNNING = 0xFFFFFFFF
_LOCK_SECONDS = 2.0  # a TEE whose host was killed needs a moment to end


class Device:
    """What the trusted applications of one process share.

    Security: the keys that outlive a call, the root key among them, stand in `secrets`; `close`
    overwrites the device's own.

    Args:
        budget: pays for the counter's entries.
        root_key: 32 bytes, moved into `secrets`: overwritten here.
        secrets: None: memory of its own.
        fused: the key outlives the process. Epochs then need the counter, and a seed of this start.
    """

    def __init__(
        self,
        budget: Budget,
        root_key: bytearray,
        secrets: SecretMemory | None = None,
        *,
        fused: bool = False,
    ) -> None:
        self.secrets = secrets or SecretMemory()
        self._root = self.secrets.keep(root_key)
        self._counter_key = self.secrets.keep(keys.counter_key(self.root_key))
        self.counter = RollbackCounter(self._counter_key.view, budget)
        self._fused = fused
        self._boot_seed = os.urandom(keys.BOOT_SEED_BYTES) if fused else b""
        self.epoch = 0

    @property
    def root_key(self) -> memoryview:
        """The root key, where it stands."""
        return self._root.view

    def require_started(self) -> None:
        """Raise BAD_STATE on a device with fuses whose counter was not started."""
        if self._fused:
            self.counter.require_started()

    def next_epoch(self) -> int:
        """Draw an epoch number: start number << 32 | running number, which is never reused.

        Raises:
            TeeError: BAD_STATE on a device with fuses whose counter was not started, and when
                2**32 - 1 numbers were drawn since the start.
        """
        self.require_started()
        running = (self.epoch & _MAX_RUNNING) + 1
        if running > _MAX_RUNNING:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "no epoch number is left")
        self.epoch = self.counter.boots << 32 | running
        return self.epoch

    def epoch_key(self, epoch: int) -> bytearray:
        """Derive the key of an epoch of this start. Security: as `keys.epoch_key`."""
        return keys.epoch_key(self.root_key, epoch, self._boot_seed)

    def close(self) -> None:
        """Overwrite the root key and the counter's."""
        self._root.drop()
        self._counter_key.drop()


def read_fuses(path: str) -> tuple[bytearray, int]:
    """Return the key of the fuse file, made first where there is none, and a descriptor.

    The descriptor holds the file's lock: one device has one secure world at a time.

    Args:
        path: absolute.

    Raises:
        OSError: the file cannot be made, read or locked.
        ValueError: it, or its folder, can be changed or read by other users, or it is no fuse file.
    """
    folder = os.stat(os.path.dirname(path))
    if folder.st_uid != os.geteuid():
        raise ValueError("the folder of the fuse file belongs to another user")
    if folder.st_mode & 0o022:
        raise ValueError("the folder of the fuse file can be changed by others: chmod 700")
    if not os.path.lexists(path):
        _burn(path)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("the fuse file is no regular file")
        if info.st_uid != os.geteuid():
            raise ValueError("the fuse file belongs to another user")
        if info.st_mode & 0o177:
            raise ValueError(f"the fuse file has mode {info.st_mode & 0o777:o}: chmod 600")
        _lock(fd)
        fuses = bytearray(FUSE_BYTES)
        checksum = 0
        if info.st_size == FUSE_BYTES:
            with open(fd, "rb", buffering=0, closefd=False) as file:
                file.readinto(fuses)
            checksum = zlib.crc32(memoryview(fuses)[:-4])
        if not fuses.startswith(FUSE_MAGIC) or checksum != int.from_bytes(fuses[-4:], "little"):
            raise ValueError("the fuse file is damaged")
    except BaseException:
        os.close(fd)
        raise
    key = fuses[len(FUSE_MAGIC) : -4]
    wipe(fuses)
    return key, fd


def draw_key() -> bytearray:
    """Draw a root key from the kernel, straight into the array that is returned."""
    key = bytearray(keys.ROOT_KEY_BYTES)
    drawn = ctypes.CDLL(None).getrandom((ctypes.c_char * len(key)).from_buffer(key), len(key), 0)
    if drawn != len(key):
        raise OSError(errno.EIO, "the kernel gave no random bytes")
    return key


def _burn(path: str) -> None:
    """Draw a key and store it, whole or not at all; whoever comes second finds the first one's."""
    key, fuses = draw_key(), bytearray(FUSE_BYTES)
    fuses[: len(FUSE_MAGIC)] = FUSE_MAGIC
    fuses[len(FUSE_MAGIC) : -4] = key
    wipe(key)
    fuses[-4:] = zlib.crc32(memoryview(fuses)[:-4]).to_bytes(4, "little")
    folder_path, name = os.path.split(path)
    part = os.path.join(folder_path, f".{name}.{os.urandom(8).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=0) as file:
            if file.write(fuses) != FUSE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        wipe(fuses)
        os.unlink(part)
    folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(fd: int) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise BlockingIOError(0, "another TEE runs on this device") from None
            time.sleep(0.02)
