"""The main job, top to bottom: guard, gate, route, engine. Read this file first."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.config import DEFAULT_MODEL, GenerationConfig
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.privacy.gate import ALLOWED
from ptmo_secure.privacy.sensitivity import Guard, SensitivityClassifier
from ptmo_secure.types import Answer, Route, TraceStep

if TYPE_CHECKING:
    from ptmo_secure.engine.config import EngineConfig
    from ptmo_secure.engine.sampler import SamplingParams
    from ptmo_secure.engine.stats import GenerationStats

Message = dict[str, str]  # "role" and "content"


class HybridInferenceEngine:
    """Answers queries through the whole pipeline; a context manager.

    Args:
        engine: an open `Engine`; None opens the default model at the first query.
        cloud: client of a cloud model; none is supported yet, so only None is taken.
        policy: name of the offloading policy; "rule" is the one there is.
        launch_guard: starts a guard process.
        clock: monotonic seconds.

    Security: text reaches the guard process and the local engine, nothing else. Whatever goes
    wrong in the guard makes the query PRIVATE, so a broken guard can never widen a route.
    """

    def __init__(
        self,
        engine: "LocalEngine | None" = None,
        cloud: None = None,
        policy: str = "rule",
        *,
        launch_guard: "Callable[[], Guard] | None" = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if cloud is not None:
            raise InputError("cloud: no cloud client is supported yet; leave it out")
        if policy != "rule":
            raise InputError(f"unknown policy {policy!r}: choose from rule")
        self._engine, self._owns_engine = engine, engine is None
        self._classifier = SensitivityClassifier(launch_guard=launch_guard)
        self._clock = clock

    def answer(
        self,
        query: str | Sequence[Message],
        options: GenerationConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a query, or the last message of a conversation.

        Args:
            query: the user's text, or chat messages with "role" and "content".
            options: length, sampling, stop strings, system prompt, adapters; greedy by default.
            on_text: called with each piece of the answer as it is decoded.
        Raises:
            InputError: the query is empty, longer than the model's context, or names an adapter
                that is not loaded.
            EngineError: the run failed; nothing unshielded is left behind.
        """
        options = options or GenerationConfig()
        trace = _Trace(self._clock)

        with trace.step("prepare"):
            messages = _messages(query, options.system)
            engine = self._open_engine()
        with trace.step("guard.scan") as facts:
            said = "\n\n".join(message["content"] for message in messages)
            found = self._classifier.classify(said)
            facts |= {"level": found.level.value, "score": found.score, "spans": dict(found.kinds)}
            facts |= {"error": found.error} if found.error else {}
        with trace.step("gate") as facts:
            allowed = ALLOWED[found.level]
            facts |= {"allowed": [route.value for route in allowed]}
        with trace.step("route") as facts:
            route = Route.LOCAL  # the one route there is; every level allows it
            facts |= {"route": route.value}
        with trace.step("engine.generate") as facts:
            pieces = []
            for piece in engine.generate(
                messages,
                options.max_tokens,
                sampling=options.sampling,
                stop=options.stop,
                adapters=options.adapters,
            ):
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)
            run = engine.last_run
            if run is None:
                raise EngineError("the engine kept no figures of its run")
            facts |= {"prompt_tokens": run.prompt_tokens, "decode_tokens": run.decode_tokens}
            facts |= {"tee_crossings": run.tee_crossings, "finish_reason": run.finish_reason}
            facts |= {"adapters": list(options.adapters)} if options.adapters else {}

        return Answer(
            text="".join(pieces),
            route=route,
            level=found.level,
            score=found.score,
            trace=tuple(trace.steps),
            tokens=run.decode_tokens,
            ttft_ms=run.ttft_ms,
            decode_tps=run.decode_tps,
            shield=engine.config.shield,
            wall_ms=trace.wall_ms(),
        )

    # What follows serves the steps above.

    def _open_engine(self) -> "LocalEngine":
        if self._engine is None:
            from ptmo_secure.engine.engine import Engine

            self._engine = Engine.load(DEFAULT_MODEL)
        return self._engine

    def close(self) -> None:
        """End the guard process, and the engine if this object opened it. Idempotent."""
        self._classifier.close()
        if self._owns_engine and self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "HybridInferenceEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalEngine(Protocol):
    """The engine as the pipeline uses it; `Engine` is one."""

    @property
    def config(self) -> "EngineConfig": ...
    @property
    def last_run(self) -> "GenerationStats | None": ...
    def generate(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        *,
        sampling: "SamplingParams | None",
        stop: Sequence[str],
        adapters: Sequence[str],
    ) -> Iterator[str]: ...
    def close(self) -> None: ...


class _Trace:
    """Times the steps of one request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self.steps: list[TraceStep] = []

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, object]]:
        """Time a block; the facts it puts into the dictionary go into the trace."""
        facts: dict[str, object] = {}
        start = self._clock()
        yield facts
        self.steps.append(TraceStep(name, 1e3 * (self._clock() - start), facts))

    def wall_ms(self) -> float:
        return 1e3 * (self._clock() - self._start)


def _messages(query: str | Sequence[Message], system: str | None) -> list[Message]:
    messages = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
    if not messages or not messages[-1]["content"].strip():
        raise InputError("the prompt is empty")
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    try:
        "".join(message["content"] for message in messages).encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid UTF-8") from None
    return messages
