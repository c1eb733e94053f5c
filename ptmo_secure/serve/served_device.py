"""The server's device as the flow of the pipeline asks it: from a thread, in its turn."""

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from dataclasses import replace

from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.errors import EngineError
from ptmo_secure.hybrid.device import Device, Drafted, Writer
from ptmo_secure.serve.routing import (
    ChatRequest,
    Event,
    Outcome,
    Piece,
    Router,
    Routing,
    ToolCall,
)

_CUT = "the answer was cut off"


class ServedEngine:
    """Answers by a router, whose event loop is the one that makes this; any thread may ask.

    Args:
        local: answers.
        request: of the client. A prompt that is its conversation as it stands has its tools and
            its kept session; any other has neither.
        routing: of that request.

    Attributes:
        last_run: figures of the last answer, as its reader saw them.
        last_calls: that it asks for.
        outcomes: of all answers that came to their end.
    """

    def __init__(self, local: Router, request: ChatRequest, routing: Routing) -> None:
        self._local, self._request, self._routing = local, request, routing
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._running: set[Future[None]] = set()
        self._withdrawn = False
        self.last_run: GenerationStats | None = None
        self.last_calls: tuple[ToolCall, ...] = ()
        self.outcomes: list[Outcome] = []

    def generate(
        self,
        messages: Sequence[Mapping[str, object]],
        max_tokens: int,
        *,
        sampling: SamplingParams | None,
        stop: Sequence[str],
        adapters: Sequence[str],
        score: bool = False,
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; closing it cancels that.

        Args:
            messages: of the conversation.
            max_tokens, sampling, stop, adapters: as of `Engine.generate`.
            score: have `last_run` say how sure the model was.

        Raises:
            PtmoError: as the router, or the answer was withdrawn.
        """
        sampling, asked = sampling or SamplingParams(), self._request
        as_it_stands = sampling == asked.sampling and list(messages) == list(asked.messages or ())
        request = replace(
            asked,
            messages=tuple(messages),
            max_tokens=max_tokens,
            sampling=sampling,
            stop=tuple(stop),
            adapters=tuple(adapters),
            tools=asked.tools if as_it_stands else (),
            session=asked.session if as_it_stands else None,
            top_logprobs=0 if score else None,
        )
        started, first, logprobs = time.perf_counter(), 0.0, list[float]()
        outcome: Outcome | None = None
        calls: list[ToolCall] = []
        for event in self._events(request):
            first = first or time.perf_counter()
            if isinstance(event, Piece):
                logprobs += [position.chosen.logprob for position in event.positions]
                if event.text:
                    yield event.text
            elif isinstance(event, ToolCall):
                calls.append(event)
            else:
                outcome = event
        if outcome is None:
            raise EngineError("the device gave no figures of its answer")
        self.outcomes.append(outcome)
        self.last_calls = tuple(calls)
        self.last_run = GenerationStats(
            prompt_tokens=outcome.prompt_tokens,
            prefilled_tokens=outcome.prompt_tokens - outcome.cached_tokens,
            decode_tokens=outcome.completion_tokens,
            ttft_ms=1e3 * (first - started),
            prefill_seconds=first - started,
            decode_seconds=time.perf_counter() - first,
            tee_crossings=outcome.crossings,
            finish_reason=outcome.finish_reason,
            mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
        )

    def withdraw(self) -> None:
        """Cancel what is under way, and begin nothing more. Idempotent; any thread may."""
        with self._lock:
            self._withdrawn = True
            running = list(self._running)
        for each in running:
            each.cancel()

    def _events(self, request: ChatRequest) -> Iterator[Event]:
        heard: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

        async def run() -> None:
            async with aclosing(self._local.answer(request, self._routing)) as events:
                async for event in events:
                    heard.put(event)

        with self._lock:
            if self._withdrawn:
                raise EngineError(_CUT)
            answering = asyncio.run_coroutine_threadsafe(run(), self._loop)
            self._running.add(answering)
        answering.add_done_callback(lambda _: heard.put(None))  # however it ends, no reader hangs
        try:
            while (event := heard.get()) is not None:
                yield event
            answering.result()
        except CancelledError:
            raise EngineError(_CUT) from None
        finally:
            answering.cancel()
            with self._lock:
                self._running.discard(answering)


class ServedDevice(Device):
    """The device of one request; its answers bring the calls that its model asks for.

    Args:
        engine: answers.
    """

    def __init__(self, engine: ServedEngine) -> None:
        super().__init__(lambda: engine)
        self._served = engine

    def begin(
        self,
        messages: Sequence[Mapping[str, object]],
        options: GenerationConfig,
        *,
        score: bool = False,
    ) -> Iterator[str]:
        """Begin an answer; the router takes messages with their calls as they are."""
        self._settle()
        return self._served.generate(
            messages,
            options.max_tokens,
            sampling=options.sampling,
            stop=options.stop,
            adapters=options.adapters,
            score=score,
        )

    def finish(
        self,
        begun: Iterable[str],
        options: GenerationConfig,
        writer: Writer,
        facts: dict[str, object],
    ) -> Drafted:
        """Show an answer that was begun; see `Device.finish`."""
        made = super().finish(begun, options, writer, facts)
        calls = tuple(
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self._served.last_calls
        )
        return replace(made, tool_calls=calls)
