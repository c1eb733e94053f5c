"""The router of a server with a cloud: what may leave is asked there, the rest is answered here."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ptmo_secure.config import GenerationConfig
from ptmo_secure.errors import InputError, PtmoError
from ptmo_secure.hybrid.answering import code_of
from ptmo_secure.hybrid.consulting import Advice, Consultant, Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.planning import Planner
from ptmo_secure.serve.cloud_call import CloudCall
from ptmo_secure.serve.hybrid_preview import previewed
from ptmo_secure.serve.routing import (
    ChatRequest,
    Event,
    Outcome,
    Piece,
    Preview,
    Router,
    Routing,
    ToolCall,
)
from ptmo_secure.types import Route
from tee_sim.client import TeeError

_SESSION = "default"  # of a client that names none: its vault serves all its conversations
_GUARD_THREADS, _CLOUD_THREADS = 2, 64
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class HybridRouting(Routing):
    """A routing, with what a cloud would be asked.

    Args:
        case, choice: what was read and decided; None where the device answers without being asked.
        question: masked; None: nothing leaves.
    """

    case: Situation | None = None
    choice: Choice | None = None
    question: Question | None = field(default=None, repr=False)


class HybridRouter:
    """Answers by a cloud, by the device, or by both.

    Args:
        local: answers on this device, and is closed with this.
        planner: reads and decides.
        consultant: asks the cloud.

    A request that asks for log-probabilities, for a call by name or for JSON, that goes on with a
    partial answer, or that is a plain prompt, is answered here.

    Security: one user's vault, budget and cache never serve another. Whatever keeps the cloud from
    answering, the device answers.
    """

    def __init__(self, local: Router, planner: Planner, consultant: Consultant) -> None:
        self._local, self._planner, self._consultant = local, planner, consultant
        self._guard_threads = ThreadPoolExecutor(_GUARD_THREADS, "ptmo-plan")
        self._cloud_threads = ThreadPoolExecutor(_CLOUD_THREADS, "ptmo-cloud")
        self._asked = self._failed = 0

    async def route(self, request: ChatRequest) -> Routing:
        """Decide where a request is answered; nothing leaves."""
        if not _may_leave(request):
            return await self._local.route(request)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._guard_threads, self._routed, request)

    async def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Yield pieces and calls as they come, then what it took."""
        question = routing.question if isinstance(routing, HybridRouting) else None
        if question is None or not isinstance(routing, HybridRouting) or routing.case is None:
            async with aclosing(self._local.answer(request, routing)) as events:
                async for event in events:
                    yield event
            return
        async with aclosing(self._both(request, routing, routing.case, question)) as events:
            async for event in events:
                yield event

    async def preview(self, request: ChatRequest) -> Preview:
        """Say what would happen to the last message; nothing leaves."""
        if not request.messages or not str(request.messages[-1].get("content") or "").strip():
            raise InputError("messages: the last message is empty")
        if request.local_only:
            return await self._local.preview(request)
        loop = asyncio.get_running_loop()

        def told() -> Preview:
            routing = self._routed(request)
            return previewed(routing, routing.case, request.keep_local)

        return await loop.run_in_executor(self._guard_threads, told)

    def gauges(self) -> Mapping[str, float]:
        """Return the device's figures, and how often a cloud was asked and failed."""
        more = {"cloud_asked": float(self._asked), "cloud_failed": float(self._failed)}
        return {**self._local.gauges(), **more}

    async def close(self) -> None:
        """Put away what has to survive a restart."""
        await self._local.close()
        for pool in (self._guard_threads, self._cloud_threads):
            pool.shutdown(wait=False, cancel_futures=True)

    # What follows serves the calls above.

    def _routed(self, request: ChatRequest) -> HybridRouting:
        session = request.session or _SESSION
        turn = self._planner.read(request.messages or (), request.user, session, stays=False)
        case, choice = self._planner.decided(turn, request.max_tokens, request.keep_local)
        question, reason = None, turn.found.reason
        try:
            question = self._consultant.question(case, choice, _options(request), request.tools)
        except (PtmoError, TeeError) as failure:
            reason = code_of(failure)
        whole = case.divided.stays == 0 and question is not None and not question.masked
        route = Route.LOCAL if question is None else Route.CLOUD if whole else Route.HYBRID
        masked = {} if question is None else dict(question.masked)
        found = turn.found
        return HybridRouting(
            route,
            found.level,
            found.score,
            reason,
            dict(found.kinds),
            masked,
            case,
            choice,
            question,
        )

    async def _both(
        self, request: ChatRequest, routing: Routing, case: Situation, question: Question
    ) -> AsyncGenerator[Event, None]:
        """Ask the cloud for what may go, and the device for what stays, at the same time."""
        started, divided, shown = time.perf_counter(), case.divided, _Shown()
        asked = replace(question.request, seed=request.sampling.seed)
        call = CloudCall(self._consultant, replace(question, request=asked), case)
        self._asked += 1
        working = asyncio.get_running_loop().run_in_executor(self._cloud_threads, call.run)
        here, local_first = Outcome("stop", 0, 0), divided.first == "local"
        local = ""
        try:
            if divided.staying:
                about = _about(request, divided.staying)
                async with aclosing(self._local.answer(about, routing)) as events:
                    async for event in events:
                        if isinstance(event, Outcome):
                            here = event
                        elif isinstance(event, Piece):
                            local += event.text
                            if local_first:
                                yield shown.piece(event.text)
            if local_first:
                yield shown.gap()
            call.begin(local)
            async for text in call.pieces():
                yield shown.piece(text)
            advice = await working
        finally:
            call.cancel()
        if local and not local_first:
            yield shown.gap()
            yield shown.piece(local)
        if advice is None:
            yield shown.gap()
            rest = _about(request, divided.going) if local else request
            async with aclosing(self._instead(rest, routing, call.code)) as events:
                async for event in events:
                    yield event
            return
        for told in _calls(advice):
            yield told
        yield _outcome(here, advice, time.perf_counter() - started)

    async def _instead(
        self, request: ChatRequest, routing: Routing, code: str
    ) -> AsyncGenerator[Event, None]:
        """Answer here what a cloud did not, and say why."""
        self._failed += 1
        async with aclosing(self._local.answer(request, routing)) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    facts = {**event.facts, "answered": "local", "cloud_failed": code}
                    event = replace(event, facts=facts)
                yield event


class _Shown:
    """Whether anything was shown, and what then stands between two parts."""

    def __init__(self) -> None:
        self._any = self._apart = False

    def piece(self, text: str) -> Piece:
        self._any = self._any or bool(text.strip())
        self._apart = self._apart and not text.strip()
        return Piece(text)

    def gap(self) -> Piece:
        if not self._any or self._apart:
            return Piece("")
        self._apart = True
        return Piece(_BETWEEN)


def _may_leave(request: ChatRequest) -> bool:
    here = request.local_only or request.continue_final or request.json_answer or request.must_call
    return bool(request.messages) and not here and request.top_logprobs is None


def _options(request: ChatRequest) -> GenerationConfig:
    return GenerationConfig(request.max_tokens, request.sampling, request.stop)


def _about(request: ChatRequest, text: str) -> ChatRequest:
    """Return a request with another last message, which its kept session does not know."""
    messages = (*(request.messages or ())[:-1], {"role": "user", "content": text})
    return replace(request, messages=messages, session=None, tools=())


def _calls(advice: Advice) -> list[ToolCall]:
    functions = [call.get("function") for call in advice.tool_calls]
    return [
        ToolCall(str(each.get("name")), str(each.get("arguments")))
        for each in functions
        if isinstance(each, Mapping)
    ]


def _outcome(here: Outcome, advice: Advice, seconds: float) -> Outcome:
    """Return what both parts took together."""
    told = {f"cloud_{name}": value for name, value in advice.facts.items()}
    counts = [advice.facts.get(name) for name in ("prompt_tokens", "tokens")]
    prompt, made = (count if isinstance(count, int) else 0 for count in counts)
    return Outcome(
        "length" if advice.finish_reason == "length" else "stop",
        here.prompt_tokens + prompt,
        here.completion_tokens + made,
        here.cached_tokens,
        here.crossings,
        advice.usd,
        seconds,
        {**here.facts, **told},
    )
