"""A cloud's answer in a thread, read by the server's event loop."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack

from ptmo_secure.errors import PtmoError
from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.answering import code_of
from ptmo_secure.hybrid.consulting import Advice, Consultant, Question
from ptmo_secure.hybrid.deciding import Situation
from ptmo_secure.hybrid.device import Writer
from ptmo_secure.hybrid.exchange import Exchange
from tee_sim.client import TeeError


class CloudCall:
    """One question. It is made in the event loop, which reads it; `run` is given to a thread.

    Args:
        consultant: asks.
        question: masked.
        case: the turn that it is about.

    Attributes:
        code: why there is no answer; "" while there may be one.
    """

    def __init__(self, consultant: Consultant, question: Question, case: Situation) -> None:
        self._consultant, self._question, self._case = consultant, question, case
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._ready = threading.Event()
        self._exchange: Exchange | None = None
        self._local = ""
        self._cancelled = False
        self.code = ""

    def begin(self, local: str) -> None:
        """Say what the device said, against which the answer is held; it is not shown before."""
        self._local = local
        self._ready.set()

    def cancel(self) -> None:
        """Cut the call. Idempotent, and nothing after its end."""
        self._cancelled = True
        self._ready.set()
        if self._exchange is not None:
            self._exchange.cancel()

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the answer as it comes, restored; nothing where there is none."""
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def run(self) -> Advice | None:
        """Charge the budget, ask, and read the answer; None where there is none."""
        try:
            with ExitStack() as held:
                return self._answer(held)
        except (PtmoError, TeeError) as failure:
            self.code = code_of(failure)
        except Exception as failure:  # fail closed: the device answers
            self.code = type(failure).__name__
        finally:
            self._put(None)
        return None

    def _answer(self, held: ExitStack) -> Advice | None:
        question = self._question
        if self._consultant.charge(question, self._case) is not None:
            self.code = "budget"
            return None
        if question.reply is None:
            call = self._consultant.ask(question, self._case.turn)
            self._exchange = held.enter_context(call)
        self._ready.wait()
        if self._cancelled:
            self.code = "cancelled"
            return None
        return self._consultant.listen(
            question, self._exchange, Writer(self._put), Merger(self._local)
        )

    def _put(self, piece: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
