"""The values that pass between the pipeline's steps, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Level(Enum):
    """How sensitive a query is, and what that allows."""

    PUBLIC = "PUBLIC"
    """General knowledge; a cloud may see it."""

    SEMI_SENSITIVE = "SEMI_SENSITIVE"
    """Private pieces beside a public question; the private ones stay on the device."""

    PRIVATE = "PRIVATE"
    """Passwords, card numbers and the like; nothing leaves the device."""


class Route(Enum):
    """Where a query is answered."""

    LOCAL = "local"
    CLOUD = "cloud"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What the guard found in a text.

    Security: holds a level, a score and counts; never the text or the pieces found.

    Args:
        level: the class that the gate acts on.
        score: risk in [0, 1].
        kinds: number of spans per entity kind, e.g. `{"EMAIL": 1}`.
        error: type of the error that made the guard unusable; level and score are then the worst.
    """

    level: Level
    score: float
    kinds: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a request: its name, its wall time, and facts about it.

    Security: `facts` holds codes, names of kinds and counts; never user text.
    """

    name: str
    ms: float
    facts: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The step as one flat JSON object."""
        return {"step": self.name, "ms": round(self.ms, 3), **self.facts}


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to one query, and how it came about.

    Args:
        text: the answer.
        route: where it was computed.
        level, score: what the guard said of the query.
        trace: the steps in order; their times add up to `wall_ms` within 5 %.
        tokens: tokens decoded.
        ttft_ms: time from the engine's start to its first token.
        decode_tps: tokens per second after the first one.
        shield: how the KV cache was protected.
        wall_ms: wall time of the whole request.
    """

    text: str
    route: Route
    level: Level
    score: float
    trace: tuple[TraceStep, ...]
    tokens: int = 0
    ttft_ms: float = 0.0
    decode_tps: float = 0.0
    shield: str = ""
    wall_ms: float = 0.0

    def as_json(self) -> dict[str, object]:
        """The object that `ptmo ask --json` prints."""
        return {
            "answer": self.text,
            "route": self.route.value,
            "level": self.level.value,
            "score": round(self.score, 4),
            "trace": [step.as_json() for step in self.trace],
            "tokens": self.tokens,
            "ttft_ms": round(self.ttft_ms, 3),
            "decode_tps": round(self.decode_tps, 3),
            "shield": self.shield,
        }
