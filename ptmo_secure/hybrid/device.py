"""The device's own answers, as steps of a request."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.config import GenerationConfig
from ptmo_secure.errors import EngineError
from ptmo_secure.hybrid.trace import Trace

if TYPE_CHECKING:
    from ptmo_secure.engine.config import EngineConfig
    from ptmo_secure.engine.sampler import SamplingParams
    from ptmo_secure.engine.stats import GenerationStats


class LocalEngine(Protocol):
    """The engine as the pipeline uses it; `Engine` is one."""

    @property
    def config(self) -> "EngineConfig":
        """How it was loaded."""

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
    """

    text: str
    run: "GenerationStats"


class Device:
    """Answers by an engine that is opened when it is first needed.

    Args:
        open_engine: returns it.
    """

    def __init__(self, open_engine: Callable[[], LocalEngine]) -> None:
        self._open = open_engine

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
        pieces: list[str] = []
        with trace.step(name) as facts:
            engine = self._open()
            more = {"score": True} if score else {}
            for piece in engine.generate(
                [_plain(message) for message in messages],
                options.max_tokens,
                sampling=options.sampling,
                stop=options.stop,
                adapters=options.adapters,
                **more,
            ):
                pieces.append(piece)
                writer.write(piece)
            run = engine.last_run
            if run is None:
                raise EngineError("the engine kept no figures of its run")
            facts |= {"prompt_tokens": run.prompt_tokens, "decode_tokens": run.decode_tokens}
            facts |= {"tee_crossings": run.tee_crossings, "finish_reason": run.finish_reason}
            facts |= {"adapters": list(options.adapters)} if options.adapters else {}
        return Drafted("".join(pieces), run)


def _plain(message: Mapping[str, object]) -> dict[str, str]:
    return {"role": str(message["role"]), "content": str(message.get("content") or "")}
