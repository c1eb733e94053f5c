"""Where a request is answered: one interface, so that the server need not know."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ptmo_secure.cloud.types import Message, Position
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.types import Level, Route


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One answer that is asked for, checked.

    Args:
        messages: a conversation; None with a `prompt`.
        prompt: text or token ids to go on with; None with `messages`.
        max_tokens: longest answer, 1 or more.
        sampling: how tokens are chosen.
        stop: texts that end the answer.
        tools: definitions as in the OpenAI API; none where no call is wanted.
        must_call: names of functions one of which has to be called; () leaves it to the model.
        json_answer: whether the answer has to be a JSON object.
        top_logprobs: None, or alternatives told per token.
        continue_final: whether the last message is a partial answer, to be continued.
        adapters: LoRA adapters of the local model.
        model: that answers on this device; "" is the first.
        session: opaque name under which the conversation's rows are kept; None keeps none.
        user: opaque name of who asks, for budgets and vaults; one user's never serves another's.
        local_only: whether nothing may leave the device, whatever the level.
        keep_local: numbers of the segments, as in the preview, that the user keeps on the device; a
            number that none has keeps the whole message.
        keep_messages: places of earlier messages that the user keeps there, with their answers.
    """

    messages: tuple[Message, ...] | None
    prompt: str | tuple[int, ...] | None = None
    max_tokens: int = 256
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, object], ...] = ()
    must_call: tuple[str, ...] = ()
    json_answer: bool = False
    top_logprobs: int | None = None
    continue_final: bool = False
    adapters: tuple[str, ...] = ()
    model: str = ""
    session: str | None = None
    user: str = "default"
    local_only: bool = False
    keep_local: frozenset[int] = frozenset()
    keep_messages: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Routing:
    """What is known of a request before its first token.

    Security: codes, names of kinds and counts; never text.

    Args:
        route: where it will be answered.
        level, score: the guard's verdict.
        reason: code of why.
        found: number of private values per kind.
        masked: placeholders per kind in all that goes out, the conversation before included.
    """

    route: Route
    level: Level
    score: float
    reason: str = ""
    found: Mapping[str, int] = field(default_factory=dict)
    masked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of the answer; no piece splits a character. Positions of tokens that came with it."""

    text: str
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` is a JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended, and what it took. It comes last.

    Args:
        finish_reason: "stop" | "length"; "tool_calls" is the server's to say.
        prompt_tokens, completion_tokens: counted by the model that answered.
        cached_tokens: of the prompt's, those that were not computed again.
        crossings: calls into the TEE.
        usd, seconds: what it cost.
        facts: more for `x_ptmo`: codes and counts, never text.
        instead: what happened, where it is not what was planned.
    """

    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    crossings: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    facts: Mapping[str, object] = field(default_factory=dict)
    instead: Routing | None = None


Event = Piece | ToolCall | Outcome


def happened(planned: Routing, outcomes: Sequence[Outcome]) -> Routing:
    """Return the routing that the answers took: the plan, unless none of them went as planned."""
    others = [outcome.instead for outcome in outcomes]
    if not others or None in others:
        return planned
    told = [other for other in others if other is not None]
    return max(told, key=lambda other: sum(other.masked.values()))


@dataclass(frozen=True, slots=True)
class PreviewedSegment:
    """A part of the last message, and what would become of it.

    Security: holds the user's text; it goes back to that user alone.

    Args:
        order: its number, as in `ChatRequest.keep_local`.
        text: as the user wrote it.
        separator: what stands between it and the next.
        level, score, kinds: the guard's verdict on it.
        reasons: in words, one a line.
        route: where it would be answered.
        sent: what would leave the device; None for nothing.
    """

    order: int
    text: str
    separator: str
    level: Level
    score: float
    kinds: Mapping[str, int]
    reasons: tuple[str, ...]
    route: Route
    sent: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen to a message if it were sent.

    Security: as `PreviewedSegment`.

    Args:
        routing: of the request.
        segments: parts of its last message.
        messages, tools: all that would be sent to a cloud, as it would be; none where nothing is.
        flow: how a cloud would be asked: "ask", "cascade", "delegate" or "fuse"; None: not at all.
    """

    routing: Routing
    segments: tuple[PreviewedSegment, ...]
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, object], ...] = ()
    flow: str | None = None


class Router(Protocol):
    """Answers requests. Its methods run in the server's event loop and must not block it.

    Each raises `InputError` for the user's mistake, `CapacityError` where later may do, and another
    `PtmoError` where the run failed; none of them quotes text of the user's.
    """

    async def check(self, request: ChatRequest) -> None:
        """Refuse what cannot be answered, before the guard reads it; `route` does it itself."""

    async def route(self, request: ChatRequest) -> Routing:
        """Decide where a request is answered. Nothing has left the device when this returns."""

    def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Yield pieces and calls as they come, then an `Outcome`.

        Closing the iterator cancels the request. For several choices it is called several times.
        """

    async def preview(self, request: ChatRequest) -> Preview:
        """Say what would happen to the last message; nothing leaves the device."""

    def gauges(self) -> Mapping[str, float]:
        """Figures of the moment for /metrics, by name."""

    async def close(self) -> None:
        """Put away what has to survive a restart; no request runs any more."""
