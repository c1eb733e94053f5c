"""The router of a server without a cloud: every request is answered on this device."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from ptmo_secure.cloud.types import Position, TokenLogprob
from ptmo_secure.engine.constraint import ByteVocabulary, Constraint
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.grammar import JsonObject
from ptmo_secure.engine.logprobs import ScoredStep, ScoredToken
from ptmo_secure.engine.request import Request
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.privacy.decompose import QueryDecomposer, Segment
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.serve.guard_queue import GuardQueue
from ptmo_secure.serve.routing import (
    ChatRequest,
    Event,
    Outcome,
    Piece,
    Preview,
    PreviewedSegment,
    Routing,
    ToolCall,
)
from ptmo_secure.serve.tools import (
    CALL_PREFIX,
    CallParser,
    call_grammar,
    parse_calls,
    plain_messages,
    template_messages,
)
from ptmo_secure.types import Route, Sensitivity

_SETTLE_S = 10.0


class LocalRouter:
    """Answers by a scheduler; rates texts by the guard.

    Args:
        engine, scheduler, shelf: the caller's, which closes them after this.
        classifier: the guard's verdict; the caller's.
        guard_queue: turns at that guard, which this closes; None: its own.

    Security: text reaches the guard process and the local engine, nothing else. A guard that fails
    makes a request PRIVATE.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        shelf: SessionShelf,
        classifier: SensitivityClassifier,
        guard_queue: GuardQueue | None = None,
    ) -> None:
        self._engine, self._scheduler, self._shelf = engine, scheduler, shelf
        self._classifier = classifier
        self._decomposer = QueryDecomposer(classifier)
        self._vocabulary = ByteVocabulary(engine.tokenizer)
        self._guard_queue = guard_queue or GuardQueue()

    async def check(self, request: ChatRequest) -> None:
        """Refuse a prompt that is longer than the context."""
        tokens = len(await asyncio.to_thread(self._prompt_ids, request))
        if tokens >= self._engine.context_tokens:
            raise InputError(
                f"the prompt has {tokens} tokens, the context holds "
                f"{self._engine.context_tokens} with room for an answer"
            )

    async def route(self, request: ChatRequest) -> Routing:
        """Rate a request; its route is local."""
        await self.check(request)
        text = request_text(request, self._engine.tokenizer)
        found = await self._guard_queue.run(len(text), lambda: self._classifier.classify(text))
        return _routing(found)

    async def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Yield pieces and calls as they are decoded, then what it took."""
        started = time.perf_counter()
        submitted = await self._begun(request)
        with submitted:  # leaving cancels
            if request.must_call:
                async for event in _forced_call(submitted, request.must_call):
                    yield event
            else:
                async for event in _pieces(submitted, request):
                    yield event
        stats = submitted.stats
        if stats is None or stats.finish_reason == "cancelled":
            raise EngineError("the answer was cut off: the server is shutting down")
        yield Outcome(
            finish_reason="length" if stats.finish_reason == "length" else "stop",
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.decode_tokens,
            cached_tokens=stats.prompt_tokens - stats.prefilled_tokens,
            crossings=stats.tee_crossings,
            seconds=time.perf_counter() - started,
            facts={
                "shield": self._engine.config.shield,
                "queued_ms": round(1e3 * stats.queued_seconds, 3),
                "preemptions": stats.preemptions,
            },
        )

    async def preview(self, request: ChatRequest) -> Preview:
        """Tell the parts of the last message; all of them would stay here."""
        text = str((request.messages or ({},))[-1].get("content") or "")
        if not text.strip():
            raise InputError("messages: the last message is empty")
        await self.check(request)
        found, segments = await self._guard_queue.run(len(text), lambda: self._split(text))
        told = tuple(_previewed(segment) for segment in segments)
        return Preview(_routing(found), told)

    def gauges(self) -> Mapping[str, float]:
        """Return figures of the scheduler and the shelf."""
        stats = self._scheduler.stats()
        names = ("reused", "resumed", "saved", "dropped", "refused")
        return {
            **{name: float(stats[name]) for name in ("running", "waiting", "preemptions")},
            "kept_sessions": float(len(self._shelf)),
            **{f"sessions_{name}": float(self._shelf.counts[name]) for name in names},
            "kv_free_pages": float(self._engine.sessions.free_pages),
        }

    async def close(self) -> None:
        """Wait for cancelled requests to leave the batch, and put kept sessions away."""
        end = time.monotonic() + _SETTLE_S
        while time.monotonic() < end:
            stats = self._scheduler.stats()
            if not stats["running"] and not stats["waiting"]:
                break
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._shelf.save_all)
        self._guard_queue.close()

    # What follows serves the calls above.

    def _split(self, text: str) -> tuple[Sensitivity, list[Segment]]:
        found = self._classifier.classify(text)
        return found, self._decomposer.split(text, found)

    async def _begun(self, request: ChatRequest) -> Request:
        """Submit in a thread, which ends its work also where nobody waits for it any more."""
        working = asyncio.ensure_future(asyncio.to_thread(self._submit, request))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.add_done_callback(_withdrawn)
            raise

    def _submit(self, request: ChatRequest) -> Request:
        ids = self._prompt_ids(request)
        constraint = None
        if request.must_call:
            ids += self._engine.tokenizer.encode_with_special(CALL_PREFIX)
            constraint = Constraint(self._vocabulary, call_grammar(request.must_call))
        elif request.json_answer:
            constraint = Constraint(self._vocabulary, JsonObject())
        return self._scheduler.submit(
            ids,
            request.max_tokens,
            sampling=request.sampling,
            stop=request.stop if constraint is None else (),
            adapters=request.adapters,
            top_logprobs=request.top_logprobs,
            constraint=constraint,
            session=request.session,
        )

    def _prompt_ids(self, request: ChatRequest) -> list[int]:
        if request.messages is None:
            if isinstance(request.prompt, str):
                tokenizer = self._engine.tokenizer
                return tokenizer.encode(request.prompt, add_bos=tokenizer.add_bos_token)
            return list(request.prompt or ())
        messages, partial = request.messages, ""
        if request.continue_final:
            messages, partial = messages[:-1], str(messages[-1].get("content") or "")
        template = self._engine.chat_template
        if template.takes_tools and (request.tools or any("tool_calls" in m for m in messages)):
            prompt = template.render(template_messages(messages), tools=request.tools)
        else:
            prompt = template.render(plain_messages(messages, request.tools))
        return [*prompt.ids, *(self._engine.tokenizer.encode(partial) if partial else ())]


def _withdrawn(submitting: "asyncio.Task[Request]") -> None:
    """Take out of the batch what was submitted when its client had left."""
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()


def request_text(request: ChatRequest, tokenizer: Tokenizer) -> str:
    """Return all the text of a request, as the pipeline gives it to the guard.

    Raises:
        InputError: a token id is out of range.
    """
    if request.messages is None:
        prompt = request.prompt or ""
        return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=False)
    texts = []
    for message in request.messages:
        texts.append(str(message.get("content") or ""))
        calls = message.get("tool_calls")
        texts += [str(call) for call in calls] if isinstance(calls, list) else []
    return "\n\n".join(texts)


async def _pieces(submitted: Request, request: ChatRequest) -> AsyncIterator[Event]:
    """Yield text with the positions of its tokens; calls, where there are tools."""
    names = _function_names(request.tools)
    parser = CallParser(names) if names else None
    scored, given = submitted.generation.scored, 0
    async for piece in submitted:
        for part in [piece] if parser is None else parser.push(piece):
            if isinstance(part, ToolCall):
                yield part
            elif part:
                fresh, given = scored[given:], len(scored)
                yield Piece(part, tuple(map(_position, fresh)))
    for part in () if parser is None else parser.finish():
        yield part if isinstance(part, ToolCall) else Piece(part)
    if given < len(scored):
        yield Piece("", tuple(map(_position, scored[given:])))


async def _forced_call(submitted: Request, names: Sequence[str]) -> AsyncIterator[Event]:
    text = "".join([piece async for piece in submitted])
    for call in parse_calls(f"{CALL_PREFIX}{text}}}", names):
        yield call


def _function_names(tools: Sequence[Mapping[str, object]]) -> list[str]:
    functions = [tool.get("function") for tool in tools]
    return [str(each.get("name")) for each in functions if isinstance(each, Mapping)]


def _position(step: ScoredStep) -> Position:
    return Position(_token(step.chosen), tuple(map(_token, step.top)))


def _token(token: ScoredToken) -> TokenLogprob:
    return TokenLogprob(token.bytes.decode("utf-8", "replace"), token.bytes, token.logprob)


def _routing(found: Sensitivity) -> Routing:
    return Routing(Route.LOCAL, found.level, found.score, found.reason, dict(found.kinds))


def _previewed(segment: Segment) -> PreviewedSegment:
    kinds: dict[str, int] = {}
    for span in segment.spans:
        kinds[span.kind] = kinds.get(span.kind, 0) + 1
    reasons = [f"{count} x {kind}" for kind, count in kinds.items()]
    reasons += [f"topic {topic}" for topic in segment.topics]
    if segment.refers_to is not None:
        reasons.append(f"refers to part {segment.refers_to + 1}")
    reasons.append("this server has no cloud: it stays on the device")
    return PreviewedSegment(
        segment.order,
        segment.text,
        segment.separator,
        segment.level,
        segment.score,
        kinds,
        tuple(reasons),
        Route.LOCAL,
        None,
    )
