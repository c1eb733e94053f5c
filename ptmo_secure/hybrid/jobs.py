"""A turn that is to be answered, and how it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptmo_secure.config import GenerationConfig
from ptmo_secure.hybrid.consulting import Advice, Question
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.device import Writer
from ptmo_secure.hybrid.exchange import Exchange
from ptmo_secure.hybrid.telling import Message, text_of
from ptmo_secure.hybrid.trace import Trace
from ptmo_secure.hybrid.withdrawal import Withdrawal
from ptmo_secure.types import Route

if TYPE_CHECKING:
    from ptmo_secure.engine.stats import GenerationStats


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn was answered.

    Args:
        route: where.
        run: the device's last figures; None where it did nothing.
        masked: placeholders per kind in what left, also where no answer came of it.
        usd: what it cost.
        tool_calls: that are asked for, restored.
        said: what of the answer a cloud wrote, as it came.
        failed: code of why a cloud that was to be asked has no part in the answer, or only what it
            had said before.
    """

    route: Route
    run: "GenerationStats | None" = None
    masked: Mapping[str, int] | None = None
    usd: float = 0.0
    tool_calls: tuple[Mapping[str, object], ...] = ()
    said: Message | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One turn that is to be answered.

    Args:
        case, choice: what was read and decided.
        messages: the conversation, for the device alone.
        options: of the answer.
        writer: takes it.
        trace: gets the steps.
        withdrawal: cuts what is under way.
        sent: gets the questions that hold words of the turn itself.
    """

    case: Situation
    choice: Choice
    messages: Sequence[Mapping[str, object]]
    options: GenerationConfig
    writer: Writer
    trace: Trace
    withdrawal: Withdrawal = field(default_factory=Withdrawal)
    sent: "list[Sent]" = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Whether words of the turn itself left the device, or may have, as far as it has come."""
        return any(sent.left for sent in self.sent)

    def about(self, text: str) -> list[Mapping[str, object]]:
        """Return the conversation with another last message."""
        return [*self.messages[:-1], {**self.messages[-1], "content": text}]

    def own_words(self) -> str:
        """Return what the conversation's user and system wrote, and nobody else."""
        own = [m for m in self.messages if m.get("role") in ("user", "system", "developer")]
        return "\n".join(map(text_of, own))


@dataclass(slots=True)
class Sent:
    """A question that was asked, or not.

    Args:
        call: under way; None for an answer from the cache, and where nothing was asked.
        failed: code of why there is no answer; "" while there may be one.
        begun: whether words of an answer that failed afterwards were shown.
        known: whether it left without a call of its own: a cache knows the answer, or it was fused.
    """

    call: Exchange | None
    failed: str = ""
    begun: bool = False
    known: bool = False

    @property
    def instead(self) -> Route:
        """Where an answer comes from that the device gave in the place of a cloud's."""
        return Route.HYBRID if self.begun else Route.LOCAL

    @property
    def left(self) -> bool:
        """Whether it may have left the device, then or when its answer came into the cache."""
        return self.known or (self.call is not None and self.call.left)

    def told(self, question: Question) -> Mapping[str, int]:
        """Return the placeholders that may have left, once the call has ended."""
        return question.masked if self.call is not None and self.call.left else {}

    def answered(
        self, route: Route, question: Question, advice: Advice, run: "GenerationStats | None"
    ) -> Outcome:
        """Return the outcome of an answer that a cloud had a part in, now or when it was kept."""
        calls = advice.tool_calls
        return Outcome(route, run, self.told(question), self.usd, calls, advice.said)

    @property
    def usd(self) -> float:
        """What asking cost, once the call has ended, whether or not an answer came."""
        return 0.0 if self.call is None else self.call.usd


def code_of(failure: Exception) -> str:
    """Return why something failed, as the trace says it: a code or a type, never a text."""
    code = getattr(failure, "code", None)
    return f"{type(failure).__name__}:{code}" if isinstance(code, str) else type(failure).__name__
