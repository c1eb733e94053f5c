"""A request given to the scheduler, seen by the one who waits for its answer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from ptmo_secure.engine.generation import Generation
from ptmo_secure.engine.owner import Owner
from ptmo_secure.engine.peft_config import is_number
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.errors import EngineError, InputError, PtmoError


class Request:
    """An answer that is being written elsewhere: iterate it for pieces, or ask for `result`.

    Iteration works in any number of threads, and with `async for` in any event loop; each reader
    gets every piece. A reader that is slow holds nobody up. As a context manager it is cancelled
    on leaving, so that an answer nobody reads any more takes no further step.

    Attributes:
        generation: ids of prompt and answer; the scheduler's to change.
    """

    def __init__(self, generation: Generation) -> None:
        """Use `Scheduler.submit`."""
        self.generation = generation
        self._owner = Owner()
        self._changed = threading.Condition()
        self._pieces: list[str] = []
        self._wakers: list[Callable[[], None]] = []
        self._ended = False
        self._cancelled = False
        self._error: PtmoError | None = None
        self._stats: GenerationStats | None = None

    # ------------------------------------------------------------------ the reader's side

    def __iter__(self) -> Iterator[str]:
        """Yield pieces as they come; no piece splits a character.

        Raises:
            EngineError: the run failed, or this is a forked child, where no piece will come; those
                that were made before have been yielded.
        """
        at = 0
        while fresh := self._wait_for_more(at):
            yield from fresh
            at += len(fresh)
        self._raise_error()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield pieces as they come, without blocking the event loop; raises as `__iter__`."""
        self._owner.require()
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._wakers.append(wake)
        try:
            at = 0
            while True:
                changed.clear()
                with self._changed:
                    fresh, ended = self._pieces[at:], self._ended
                for piece in fresh:
                    yield piece
                at += len(fresh)
                if ended:
                    break
                await changed.wait()
        finally:
            with self._changed:
                self._wakers.remove(wake)
        self._raise_error()

    def result(self, timeout_s: float | None = None) -> str:
        """Wait for the end and return the whole text.

        Raises:
            InputError: `timeout_s` is neither None nor a number.
            EngineError: the run failed, did not end in `timeout_s`, or this is a forked child.
        """
        if not self.wait(timeout_s):
            raise EngineError(f"no end of the answer after {timeout_s} s")
        self._raise_error()
        return "".join(self._pieces)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, whichever; True once its pages are zeroed and its key is wiped.

        Raises:
            InputError: `timeout_s` is neither None nor a number.
            EngineError: in a forked child, where it would never come.
        """
        self._owner.require()
        if timeout_s is not None and not is_number(timeout_s):
            raise InputError(f"timeout_s={timeout_s!r} is not a number of seconds")
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_s)

    def cancel(self) -> None:
        """End the answer where it is; does not wait.

        Its rows are zeroed and its seal key is wiped before any further row is computed, or the
        shelf keeps both under the request's name; `wait` tells when. The pieces so far are its
        result, its finish reason is "cancelled".
        """
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called; the answer may have ended before."""
        return self._cancelled

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended

    @property
    def stats(self) -> GenerationStats | None:
        """Figures of the run; None before its end and where it failed."""
        return self._stats

    def __enter__(self) -> "Request":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _wait_for_more(self, at: int) -> list[str]:
        self._owner.require()
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._pieces) > at)
            return self._pieces[at:]

    def _raise_error(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # one of its own for each reader

    # ------------------------------------------------------------------ the scheduler's side

    def add_piece(self, piece: str) -> None:
        """Hand over the next piece."""
        with self._changed:
            self._pieces.append(piece)
            self._notify()

    def end(self, *, stats: GenerationStats | None = None, error: PtmoError | None = None) -> None:
        """Say that nothing more will come: figures of the run, or why it failed."""
        with self._changed:
            self._stats, self._error, self._ended = stats, error, True
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        for waker in self._wakers:
            try:
                waker()
            except RuntimeError:
                continue  # the reader's event loop is closed: nobody listens there any more
