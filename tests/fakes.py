"""Stand-ins for the engine, the guard and the clock, for tests of what lies above them."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.stats import GenerationStats
from tee_sim.client import ScanResult, Span


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeEngine:
    """Answers with given pieces.

    Args:
        pieces: what `generate` yields.
        before_piece: called before each piece.
        fails: raised after the pieces.
    """

    def __init__(
        self,
        pieces: Sequence[str] = ("Hello", " world"),
        before_piece: Callable[[], None] = lambda: None,
        fails: Exception | None = None,
        shield: str = "seal",
    ) -> None:
        self.pieces = tuple(pieces)
        self.before_piece = before_piece
        self.fails = fails
        self.config = EngineConfig.from_fields(shield=shield)
        self.last_run: GenerationStats | None = None
        self.prompts: list[list[Mapping[str, str]]] = []
        self.calls: list[tuple[int, SamplingParams | None, tuple[str, ...]]] = []
        self.adapters: dict[str, str] = {}  # loaded: path by name
        self.used_adapters: list[tuple[str, ...]] = []
        self.resets = 0
        self.closed = False

    def generate(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int = 64,
        *,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        adapters: Sequence[str] = (),
    ) -> Iterator[str]:
        self.prompts.append(list(messages))
        self.used_adapters.append(tuple(adapters))
        self.calls.append((max_tokens, sampling, tuple(stop)))
        for piece in self.pieces:
            self.before_piece()
            yield piece
        if self.fails is not None:
            raise self.fails
        self.last_run = GenerationStats(
            prompt_tokens=7,
            prefilled_tokens=7,
            decode_tokens=len(self.pieces),
            ttft_ms=12.5,
            prefill_seconds=0.01,
            decode_seconds=0.1,
            tee_crossings=3,
            finish_reason="stop",
        )

    def load_adapter(self, name: str, path: str) -> None:
        self.adapters[name] = path

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeGuard:
    """Says what it is told to say.

    Args:
        level, score: the verdict.
        fails: raised by `scan` instead.
        on_scan: called by `scan` first.
    """

    def __init__(
        self,
        level: str = "PUBLIC",
        score: float = 0.0,
        fails: Exception | None = None,
        on_scan: Callable[[], None] = lambda: None,
    ) -> None:
        self.level, self.score, self.fails, self.on_scan = level, score, fails, on_scan
        self.texts: list[str] = []
        self.closed = False

    def scan(self, text: str) -> ScanResult:
        self.on_scan()
        self.texts.append(text)
        if self.fails is not None:
            raise self.fails
        spans = () if self.level == "PUBLIC" else (Span(0, 1, "SECRET", 0.9),)
        return ScanResult(self.level, self.score, spans)  # type: ignore[arg-type]  # tests lie

    def close(self) -> None:
        self.closed = True
