"""The router of a server with a cloud: what may leave is asked there, the rest is answered here."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ptmo_secure.errors import InputError, PtmoError
from ptmo_secure.hybrid.answering import Responder
from ptmo_secure.hybrid.consulting import Consultant, Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.device import Device
from ptmo_secure.hybrid.jobs import code_of
from ptmo_secure.hybrid.planning import Planner
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.hybrid.telling import Message, text_of
from ptmo_secure.serve.flow import Flow, FlowsFullError, options_of, seeded
from ptmo_secure.serve.guard_queue import GuardQueue
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
_FLOWS = 128  # answers at once that a cloud may have a part in


@dataclass(frozen=True, slots=True)
class HybridRouting(Routing):
    """A routing, with what a cloud would be asked.

    Args:
        case, choice: what was read and decided.
        question: masked; None: nothing leaves.
    """

    case: Situation = field(kw_only=True)
    choice: Choice = field(kw_only=True)
    question: Question | None = field(default=None, repr=False, kw_only=True)


class HybridRouter:
    """Answers by a cloud, by the device, or by both.

    Args:
        local: answers on this device, and is closed with this.
        planner: reads and decides.
        consultant: asks the cloud.
        guard_queue: turns at the guard, which this closes; None: its own.
        settings: what else is done with the cloud; the planner has to know of a cascade. None:
            nothing.

    A request that asks for log-probabilities, for a call by name or for JSON, that goes on with a
    partial answer, or that is a plain prompt, is answered here.

    Security: one user's vault, budget and cache never serve another. Whatever keeps the cloud from
    answering, the device answers.
    """

    def __init__(
        self,
        local: Router,
        planner: Planner,
        consultant: Consultant,
        guard_queue: GuardQueue | None = None,
        settings: HybridSettings | None = None,
    ) -> None:
        self._settings = settings or HybridSettings()
        self._local, self._planner, self._consultant = local, planner, consultant
        self._guard_queue = guard_queue or GuardQueue()
        self._threads = ThreadPoolExecutor(_FLOWS, "ptmo-flow")
        self._asked = self._failed = 0

    async def check(self, request: ChatRequest) -> None:
        """Refuse what the device could not answer in a cloud's place."""
        await self._local.check(request)

    async def route(self, request: ChatRequest) -> Routing:
        """Decide where a request is answered; nothing leaves."""
        if request.messages:
            await asyncio.to_thread(self._noted, request)
        if not _may_leave(request):
            return await self._local.route(request)
        await self.check(request)
        return await self._guard_queue.run(_characters(request), lambda: self._routed(request))

    async def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Yield pieces and calls as they come, then what it took."""
        if isinstance(routing, HybridRouting) and routing.question is not None:
            answering = self._by_flow(request, routing, routing.question)
        else:
            self._settle(request, told=False)
            answering = self._here(request, routing)
        async with aclosing(answering) as events:
            async for event in events:
                yield event

    async def preview(self, request: ChatRequest) -> Preview:
        """Say what would happen to the last message; nothing leaves."""
        if not request.messages or not str(request.messages[-1].get("content") or "").strip():
            raise InputError("messages: the last message is empty")
        if request.local_only:
            return await self._local.preview(request)
        await self.check(request)

        characters = _characters(request)
        routing = await self._guard_queue.run(characters, lambda: self._routed(request))
        flow = Flow(self._local, request, routing, routing.case, routing.choice)
        responder, question = self._responder(flow.device), routing.question
        name = None if question is None else responder.flow(routing.case, routing.choice, question)
        drafted: Question | None = None
        if question is not None and name == "delegate":
            asked = question
            try:
                working = await flow.begin(self._threads, lambda job: responder.drafted(job, asked))
                drafted = await asyncio.wrap_future(working)
            finally:
                flow.withdraw()
        return await self._guard_queue.run(
            characters, lambda: previewed(routing, name, drafted, request.keep_local)
        )

    def gauges(self) -> Mapping[str, float]:
        """Return the device's figures, and how often a cloud was asked and failed."""
        more = {"cloud_asked": float(self._asked), "cloud_failed": float(self._failed)}
        return {**self._local.gauges(), **more}

    async def close(self) -> None:
        """Put away what has to survive a restart."""
        await self._local.close()
        self._guard_queue.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # What follows serves the calls above.

    def _noted(self, request: ChatRequest) -> None:
        self._planner.note(
            request.messages or (),
            request.user,
            request.keep_local,
            request.keep_messages,
            local=request.local_only,
        )

    def _routed(self, request: ChatRequest) -> HybridRouting:
        session = request.session or _SESSION
        turn = self._planner.read(
            request.messages or (),
            request.user,
            session,
            stays=False,
            marked=request.keep_messages,
        )
        case, choice = self._planner.decided(turn, request.max_tokens, request.keep_local)
        question, reason = None, turn.found.reason
        try:
            question = self._consultant.question(case, choice, options_of(request), request.tools)
        except (PtmoError, TeeError) as failure:
            reason = code_of(failure)
        if question is None and reason == turn.found.reason:
            reason = self._planner.budget_refusal(turn, case) or reason
        whole = case.divided.stays == 0 and question is not None and not question.carries
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
            case=case,
            choice=choice,
            question=question,
        )

    async def _here(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Answer on the device; the answer stays, whether or not its question comes again."""
        told, calls = list[str](), list[Message]()
        if request.continue_final and request.messages:  # its client joins both to one message
            told.append(text_of(request.messages[-1]))
        try:
            async with aclosing(self._local.answer(request, routing)) as events:
                async for event in events:
                    if isinstance(event, Piece):
                        told.append(event.text)
                    elif isinstance(event, ToolCall):
                        function = {"name": event.name, "arguments": event.arguments}
                        calls.append({"function": function})
                    yield event
        finally:
            self._planner.hold_back(request.user, "".join(told), calls)

    async def _by_flow(
        self, request: ChatRequest, routing: HybridRouting, question: Question
    ) -> AsyncGenerator[Event, None]:
        """Answer by the flow of the pipeline; where there is no room for it, by the device."""
        flow = Flow(self._local, request, routing, routing.case, routing.choice)
        question, responder = seeded(question, request), self._responder(flow.device)
        calls: Sequence[Message] = ()
        try:
            working = await flow.begin(self._threads, lambda job: responder.respond(job, question))
            async for text in flow.pieces():
                yield Piece(text)
            answered = await asyncio.wrap_future(working)
            calls = answered.tool_calls
        except FlowsFullError:
            self._failed += 1
            instead = replace(routing, route=Route.LOCAL, masked={})
            async with aclosing(self._instead(request, instead, "busy")) as events:
                async for event in events:
                    yield event
            return
        finally:
            flow.withdraw()
            self._asked += flow.asked
            self._settle(request, told=flow.job.told)
            if not flow.job.told:
                self._planner.hold_back(request.user, flow.job.writer.text, calls)
        self._failed += bool(answered.failed)
        self._planner.hear(
            routing.case.turn, flow.job.writer.text, answered.tool_calls, answered.said
        )
        for call in _calls(answered.tool_calls):
            yield call
        yield flow.outcome(answered)

    def _settle(self, request: ChatRequest, *, told: bool) -> None:
        if request.messages:
            self._planner.settle(request.messages, request.user, told=told)

    def _responder(self, device: Device) -> Responder:
        return Responder(device, self._consultant, self._planner.classifier, self._settings)

    async def _instead(
        self, request: ChatRequest, routing: Routing, code: str
    ) -> AsyncGenerator[Event, None]:
        """Answer here what a cloud did not, and say why; `routing` is what happened."""
        async with aclosing(self._here(request, routing)) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    facts = {**event.facts, "answered": "local", "cloud_failed": code}
                    event = replace(event, facts=facts, instead=routing)
                yield event


def _may_leave(request: ChatRequest) -> bool:
    here = request.local_only or request.continue_final or request.json_answer or request.must_call
    return bool(request.messages) and not here and request.top_logprobs is None


def _characters(request: ChatRequest) -> int:
    return sum(len(text_of(message)) for message in request.messages or ())


def _calls(told: Sequence[Mapping[str, object]]) -> list[ToolCall]:
    functions = [call.get("function") for call in told]
    return [
        ToolCall(str(each.get("name")), str(each.get("arguments")))
        for each in functions
        if isinstance(each, Mapping)
    ]
