"""What a forked child must not use: it is refused, and neither waits nor computes.

A fork copies a lock as it stands. One that another thread held then stays locked in the child,
where no thread is left to release it: so who asks is looked at before any lock is.
"""

import os
import threading

from ptmo_secure.errors import EngineError


class Owner:
    """The process that made an object."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy."""
        return os.getpid() != self._pid

    def require(self) -> None:
        """Raise EngineError in a forked child."""
        if self.inherited:
            raise EngineError(
                f"this engine belongs to process {self._pid}: load one of your own after a fork"
            )


class OwnedLock(Owner):
    """A re-entrant lock of one process: `with owned.lock:`."""

    def __init__(self) -> None:
        super().__init__()
        # Handed out, not wrapped: an interrupt between taking it and `with` would leave it taken.
        self._lock = threading.RLock()

    @property
    def lock(self) -> threading.RLock:
        """The lock.

        Raises:
            EngineError: in a forked child.
        """
        self.require()
        return self._lock
