"""One request in the flow of the pipeline: a thread makes the answer, the event loop reads it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import TypeVar

from ptmo_secure.config import GenerationConfig
from ptmo_secure.errors import CapacityError
from ptmo_secure.hybrid.consulting import Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.device import Device, Writer
from ptmo_secure.hybrid.jobs import Job
from ptmo_secure.hybrid.jobs import Outcome as Answered
from ptmo_secure.hybrid.trace import Trace
from ptmo_secure.hybrid.withdrawal import Withdrawal
from ptmo_secure.serve.routing import ChatRequest, Outcome, Router, Routing
from ptmo_secure.serve.served_device import ServedDevice, ServedEngine
from ptmo_secure.types import Route

_WAIT_S = 1.0  # for a thread; then the device answers
_T = TypeVar("_T")
_TOLD = {"mean_logprob": "cascade_logprob", "asks": "escalated"}


class FlowsFullError(CapacityError):
    """No thread was free in time; nothing was done."""


class Flow:
    """What one answer needs. It is made in the event loop, which reads it.

    Args:
        local: answers on this device.
        request, routing: of the client.
        case, choice: what was read and decided.

    Attributes:
        device: of this answer alone.
        job: what is to be answered.
    """

    def __init__(
        self,
        local: Router,
        request: ChatRequest,
        routing: Routing,
        case: Situation,
        choice: Choice,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._started = time.perf_counter()
        self._engine = ServedEngine(local, request, routing)
        self._routing = routing
        self._withdrawal = Withdrawal()
        self._withdrawal.when(self._engine.withdraw)
        self.device: Device = ServedDevice(self._engine)
        self.job = Job(
            case,
            choice,
            request.messages or (),
            options_of(request),
            Writer(self._put),
            Trace(time.perf_counter),
            self._withdrawal,
        )

    async def begin(self, threads: Executor, respond: Callable[[Job], _T]) -> Future[_T]:
        """Begin in a thread; return what will be made of the turn, once its pieces are read.

        Args:
            threads: whose turn it waits for, but not long.
            respond: works on the job.

        Raises:
            FlowsFullError: no thread was free.
        """
        working: Future[_T] = threads.submit(self._work, respond)
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._begun.wait(), _WAIT_S)
        except asyncio.CancelledError:
            working.cancel()
            raise
        if not self._begun.is_set() and working.cancel():
            raise FlowsFullError("as many questions as may be are under way")
        return working

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the answer as it comes, until the thread is done."""
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def withdraw(self) -> None:
        """End what is under way: the device's answers, and the cloud's. Idempotent."""
        self._withdrawal.withdraw()

    def outcome(self, answered: Answered) -> Outcome:
        """Return what an answer took, of device and cloud together, and what became of the plan."""
        facts: dict[str, object] = {}
        for each in self._engine.outcomes:
            facts |= each.facts
        asked: Mapping[str, object] = {}
        for step in self.job.trace.steps:
            if step.name == "cloud.answer" and "failed" not in step.facts:
                asked = step.facts
                facts |= {f"cloud_{name}": value for name, value in asked.items()}
            elif step.name == "cascade":
                facts |= {_TOLD[name]: value for name, value in step.facts.items()}
            elif step.name == "hedge" and step.facts["begun"]:
                facts["hedged"] = step.facts["winner"]
            elif step.name == "guard.draft":
                facts["delegated"] = answered.route is not Route.LOCAL
        if answered.route is Route.LOCAL:
            facts["answered"] = "local"
        if answered.failed:
            facts["cloud_failed"] = answered.failed
        here = self._engine.outcomes
        counts = [asked.get(name) for name in ("prompt_tokens", "tokens")]
        prompt, made = (count if isinstance(count, int) else 0 for count in counts)
        ended = asked.get("finish_reason") if answered.said is not None else None
        run = answered.run
        reason = ended or ("stop" if run is None else run.finish_reason)
        masked = answered.masked or {}
        planned = (self._routing.route, dict(self._routing.masked))
        as_planned = planned == (answered.route, dict(masked))
        return Outcome(
            "length" if reason == "length" else "stop",
            sum(each.prompt_tokens for each in here) + prompt,
            sum(each.completion_tokens for each in here) + made,
            sum(each.cached_tokens for each in here),
            sum(each.crossings for each in here),
            answered.usd,
            time.perf_counter() - self._started,
            facts,
            None if as_planned else replace(self._routing, route=answered.route, masked=masked),
        )

    @property
    def asked(self) -> bool:
        """Whether a cloud was to be asked."""
        return any(step.name == "cloud.send" for step in self.job.trace.steps)

    def _work(self, respond: Callable[[Job], _T]) -> _T:
        self._tell(self._begun.set)
        try:
            return respond(self.job)
        finally:
            self._put(None)

    def _put(self, piece: str | None) -> None:
        self._tell(lambda: self._pieces.put_nowait(piece))

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(call)


def options_of(request: ChatRequest) -> GenerationConfig:
    """Return the options of a request as the pipeline takes them."""
    sampling, adapters = request.sampling, request.adapters
    return GenerationConfig(request.max_tokens, sampling, request.stop, adapters=adapters)


def seeded(question: Question, request: ChatRequest) -> Question:
    """Return a question as one choice of a request asks it: each draws by a seed of its own."""
    return replace(question, request=replace(question.request, seed=request.sampling.seed))
