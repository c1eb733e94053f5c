"""That nobody waits for an answer any more."""

import threading
from collections.abc import Callable

from ptmo_secure.errors import CloudError


class Withdrawal:
    """Ends what is under way for an answer once it is withdrawn. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._withdrawn = False

    def withdraw(self) -> None:
        """Call what was given to `when`. Idempotent; any thread may."""
        with self._lock:
            self._withdrawn = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def when(self, call: Callable[[], None]) -> None:
        """Have this called once the answer is withdrawn; at once if it was."""
        with self._lock:
            if not self._withdrawn:
                self._calls.append(call)
                return
        call()

    def check(self) -> None:
        """Pass while somebody waits for the answer.

        Raises:
            CloudError: nobody does; its code is "cancelled".
        """
        if self._withdrawn:
            raise CloudError("nobody waits for the answer any more", "cancelled")
