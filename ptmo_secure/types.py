"""The values that pass between the pipeline's steps, and its result."""

from collections import Counter
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
class PrivateSpan:
    """Where a private value stands in a text, and of what kind it is; never the value.

    Args:
        start, end: half-open range in Unicode code points.
        kind: entity kind, e.g. "EMAIL".
        severity: how much its disclosure costs, in [0, 1].
        source: "rule" or "model": what found it.
    """

    start: int
    end: int
    kind: str
    severity: float
    source: str = "rule"


_REASONS = {
    "nothing_private": "nothing private was found",
    "request_stands_alone": "a request is left that needs nothing of what is private",
    "request_carries_values": "the request is the same whatever the private values are",
    "nothing_left_to_ask": "no request is left without what is private",
    "too_many_values": "more private values than can be told apart",
    "refers_to_private": "it refers to what was said before, which is private",
    "told_before": "what was said before makes it private",
    "guard_failed": "the guard gave no verdict, so the worst is taken",
}


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What the guard found in a text.

    Security: holds positions, kinds and topics; never the text or the pieces found.

    Args:
        level: the class that the gate acts on.
        score: risk in [0, 1]; what disclosure costs.
        spans: private values, ordered, not overlapping.
        topics: situations told without a value, e.g. "health".
        reason: code of why the level; `reasons` tells it in words.
        probability: share of labelled chats of this score that are not PUBLIC, in [0, 1].
        refers_back: whether a word stands for something that was said before.
        error: type of the error that made the guard unusable; level and score are then the worst.
    """

    level: Level
    score: float
    spans: tuple[PrivateSpan, ...] = ()
    topics: tuple[str, ...] = ()
    reason: str = "nothing_private"
    probability: float = 1.0
    refers_back: bool = False
    error: str | None = None

    @property
    def kinds(self) -> Mapping[str, int]:
        """Number of spans per entity kind, e.g. `{"EMAIL": 1}`."""
        return Counter(span.kind for span in self.spans)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in words: one line per span and topic, then why the level."""
        spans = (
            f"{s.kind} at {s.start}-{s.end}, by {s.source}, severity {s.severity:.2f}"
            for s in self.spans
        )
        topics = (f"topic {topic}" for topic in self.topics)
        why = _REASONS.get(self.reason, self.reason)
        failed = f" ({self.error})" if self.error else ""
        return (*spans, *topics, f"{self.level.value}: {why}{failed}")

    def as_json(self) -> dict[str, object]:
        """The object that `ptmo classify --json` prints."""
        return {
            "level": self.level.value,
            "score": round(self.score, 4),
            "probability_not_public": round(self.probability, 4),
            "spans": [
                {
                    "start": s.start,
                    "end": s.end,
                    "kind": s.kind,
                    "severity": s.severity,
                    "source": s.source,
                }
                for s in self.spans
            ],
            "topics": list(self.topics),
            "reason": self.reason,
            "error": self.error,
        }


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
        masked: number of placeholders per kind in what left, also where no answer came of it.
        usd: what the cloud's part cost by the noted prices.
        tool_calls: that the cloud asks for, as in the OpenAI API, with the values in their places.
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
    masked: Mapping[str, int] = field(default_factory=dict)
    usd: float = 0.0
    tool_calls: tuple[Mapping[str, object], ...] = ()

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
            "masked": dict(self.masked),
            "usd": round(self.usd, 8),
        }
