"""Turns at the guard, which reads one text at a time and takes longer for long ones."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LARGE_CHARACTERS = 4096
_THREADS = 2  # the guard answers one at a time; a second keeps it from waiting

_T = TypeVar("_T")


class GuardQueue:
    """Threads for what asks the guard: large texts one at a time, between which small ones go.

    A caller that is cancelled leaves the queue; what has begun ends by itself.
    """

    def __init__(self) -> None:
        self._small = ThreadPoolExecutor(_THREADS, "ptmo-guard")
        self._large = ThreadPoolExecutor(1, "ptmo-guard-large")

    async def run(self, characters: int, work: Callable[[], _T]) -> _T:
        """Return what the work gives, in its turn.

        Args:
            characters: that the guard has to read.
            work: asks it.
        """
        threads = self._large if characters > LARGE_CHARACTERS else self._small
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def close(self) -> None:
        """Take no more. Idempotent."""
        for threads in (self._small, self._large):
            threads.shutdown(wait=False, cancel_futures=True)
