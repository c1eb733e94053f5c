"""The device's own answers, as steps of a request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.cloud.hedging import Answering
from ptmo_secure.config import GenerationConfig
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.hybrid.trace import Trace

if TYPE_CHECKING:
    from ptmo_secure.engine.config import EngineConfig
    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.engine.sampler import SamplingParams
    from ptmo_secure.engine.stats import GenerationStats


class Answerer(Protocol):
    """What answers on the device."""

    @property
    def last_run(self) -> "GenerationStats | None":
        """Figures of the last answer."""

    def generate(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        *,
        sampling: "SamplingParams | None",
        stop: Sequence[str],
        adapters: Sequence[str],
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; takes `score` as well where a cascade is wanted."""


class LocalEngine(Answerer, Protocol):
    """The engine as the pipeline uses it; `Engine` is one."""

    @property
    def config(self) -> "EngineConfig":
        """How it was loaded."""

    def close(self) -> None:
        """Let go of the model."""


class Writer:
    """Collects an answer, and shows it as it grows.

    Args:
        on_text: called with each piece; None shows nothing.
    """

    def __init__(self, on_text: Callable[[str], None] | None = None) -> None:
        self._on_text = on_text
        self.text = ""

    def write(self, piece: str) -> None:
        """Append a piece."""
        self.text += piece
        if piece and self._on_text is not None:
            self._on_text(piece)

    def begin_part(self, between: str = "\n\n") -> None:
        """Separate what comes from what was written."""
        if self.text.strip() and not self.text.endswith(between):
            self.write(between)


@dataclass(slots=True)
class Drafted:
    """An answer of the device's.

    Args:
        text: of it.
        run: the engine's figures.
        tool_calls: that it asks for, as in the OpenAI API; an engine by itself is given no tools.
    """

    text: str
    run: "GenerationStats"
    tool_calls: tuple[Mapping[str, object], ...] = ()


class Device:
    """Answers by an engine that is opened when it is first needed.

    Args:
        open_engine: returns it.
    """

    def __init__(self, open_engine: Callable[[], Answerer]) -> None:
        self._open = open_engine
        self._left: Answering[str] | None = None

    def begin(
        self,
        messages: Sequence[Mapping[str, object]],
        options: GenerationConfig,
        *,
        score: bool = False,
    ) -> Iterator[str]:
        """Begin an answer; arguments as of `answer`."""
        self._settle()
        more = {"score": True} if score else {}
        return self._open().generate(
            self.plain(messages),
            options.max_tokens,
            sampling=options.sampling,
            stop=options.stop,
            adapters=options.adapters,
            **more,
        )

    def leave(self, running: Answering[str]) -> None:
        """Let an answer that nobody wants end by itself; the next one waits for that."""
        self._left = running

    def answer(
        self,
        messages: Sequence[Mapping[str, object]],
        options: GenerationConfig,
        writer: Writer,
        trace: Trace,
        *,
        name: str = "engine.generate",
        score: bool = False,
    ) -> Drafted:
        """Answer a conversation, piece by piece.

        Args:
            messages: with "role" and "content"; others are told as the template tells them.
            options: of the answer.
            writer: takes the pieces.
            trace: gets a step of this `name`.
            score: have the run say how sure the model was.

        Raises:
            EngineError: the run failed.
        """
        with trace.step(name) as facts:
            begun = self.begin(messages, options, score=score)
            return self.finish(begun, options, writer, facts)

    def finish(
        self,
        begun: Iterable[str],
        options: GenerationConfig,
        writer: Writer,
        facts: dict[str, object],
    ) -> Drafted:
        """Show an answer that was begun; its figures go into `facts`.

        Raises:
            EngineError: the run failed.
        """
        pieces: list[str] = []
        for piece in begun:
            pieces.append(piece)
            writer.write(piece)
        run = self._open().last_run
        if run is None:
            raise EngineError("the engine kept no figures of its run")
        facts |= {"prompt_tokens": run.prompt_tokens, "decode_tokens": run.decode_tokens}
        facts |= {"tee_crossings": run.tee_crossings, "finish_reason": run.finish_reason}
        facts |= {"adapters": list(options.adapters)} if options.adapters else {}
        return Drafted("".join(pieces), run)

    def engine(self) -> "Engine":
        """Return the engine itself, with room for a session beside its conversation's.

        Raises:
            InputError: it is another kind of engine.
        """
        from ptmo_secure.engine.engine import Engine

        self._settle()
        engine = self._open()
        if not isinstance(engine, Engine):
            raise InputError("fusion needs an Engine: a stand-in gives no logits")
        engine.reset()
        return engine

    @staticmethod
    def plain(messages: Sequence[Mapping[str, object]]) -> list[Mapping[str, str]]:
        """Return messages as an engine takes them."""
        return [
            {"role": str(message["role"]), "content": str(message.get("content") or "")}
            for message in messages
        ]

    def _settle(self) -> None:
        if self._left is not None:
            self._left.join()
            self._left = None
