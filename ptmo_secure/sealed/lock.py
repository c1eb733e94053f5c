"""One user of a device's state folder at a time, whatever becomes of its TEE.

The TEE keeps its fuse file locked, so there is one secure world. But a host whose TEE died still
has the folder, and may be about to store what that TEE said last: over the files of a successor.
"""

import fcntl
import os
import time
import weakref
from pathlib import Path

from ptmo_secure.errors import EngineError

_POLL_SECONDS = 0.02


class FolderLock:
    """A folder of this process's alone, until `release`, the end of this object or of the process.

    A forked child has no part in it: its copy is let go, and the parent's stays.

    Args:
        folder: exists.
        seconds: how long another user's end is awaited.

    Raises:
        OSError: the folder cannot be opened.
        EngineError: another user has it.
    """

    _fd = -1

    def __init__(self, folder: Path, seconds: float) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _held.add(self)
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    self.release()
                    raise EngineError(
                        f"{folder.parent}: in use by another program or engine: "
                        "a device serves one at a time"
                    ) from None
                time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Let go of the folder. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.release()


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _let_go() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go)
