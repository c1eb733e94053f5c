"""The cloud's part of an answer: the question as it may be asked, and what comes back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.config import GenerationConfig
from ptmo_secure.errors import CloudError
from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.cache import CachedReply, ResponseCache
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.device import Writer
from ptmo_secure.hybrid.exchange import ClearedCloud, Exchange
from ptmo_secure.hybrid.reading import Turn, cost_of
from ptmo_secure.hybrid.restoring import Restorer, restore_call
from ptmo_secure.offload.actions import Kind
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.privacy.risk import RESIDUAL
from ptmo_secure.types import Level, Route
from tee_sim.client import Vault

_COPY = "Words in square brackets stand for private values. Copy them exactly as they are."
_MAX_TOLD = 65_536  # messages that are remembered as told


@dataclass(frozen=True, slots=True)
class Question:
    """What a cloud would be asked.

    Args:
        request: masked.
        vault: that masked it.
        why: code for the egress log.
        masked: number of placeholders per kind in the turn.
        cost: epsilon that asking it discloses, with what of the conversation is told first now.
        fresh: keys of these earlier messages.
        cached: its place in the cache; None: it is always asked.
        reply: an answer from the cache.
    """

    request: CloudRequest
    vault: Vault
    why: str
    masked: Mapping[str, int]
    cost: float
    fresh: frozenset[bytes] = frozenset()
    cached: bytes | None = None
    reply: CachedReply | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What a cloud answered, with the values in their places.

    Args:
        text: restored; what was shown of it.
        tool_calls: restored.
        finish_reason: the provider's.
        facts: codes and counts for the trace.
        usd: what it cost.
    """

    text: str
    tool_calls: tuple[Mapping[str, object], ...]
    finish_reason: str
    facts: Mapping[str, object]
    usd: float = 0.0


class Consultant:
    """Asks a cloud; thread-safe.

    Args:
        cloud: is asked.
        manager: counts what is disclosed.
        cache: of answers; None keeps none.
        deadline_s: of an answer; None: the provider's own.

    Security: text goes out only masked by the session's vault, inside a clearance for it, after the
    budget was charged. What comes back is a stranger's text: placeholders are filled, links are
    not, and nothing in it is obeyed.
    """

    def __init__(
        self,
        cloud: ClearedCloud,
        manager: PrivacyManager,
        cache: ResponseCache | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self._cloud, self._manager = cloud, manager
        self._cache, self._deadline_s = cache, deadline_s
        self._told: dict[bytes, None] = {}

    def question(
        self,
        situation: Situation,
        choice: Choice,
        options: GenerationConfig,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> Question | None:
        """Return what would be asked; None where masks do not make it fit to go.

        Raises:
            TeeError: the guard failed; nothing may go.
        """
        turn, vault = situation.turn, situation.turn.vault
        if choice.kind is Kind.LOCAL or vault is None or not situation.divided.going:
            return None
        text, kinds, told = situation.divided.going, Counter[str](), RESIDUAL
        if not is_plain(situation):
            same = turn.masked is not None and text == turn.query
            masked = turn.masked if same and turn.masked is not None else vault.mask(text)
            if masked.level == "PRIVATE":
                return None  # together its parts tell more than each by itself
            text, told = masked.text, cost_of(masked)
            kinds = Counter(place.kind for place in masked.places)
        history = [message for told in turn.history for message in told.messages]
        hint = [{"role": "system", "content": _COPY}] if kinds else []
        messages = (*hint, *history, {"role": "user", "content": text})
        request = _request(messages, options, tools)
        fresh = frozenset(told.key for told in turn.history if told.key not in self._told)
        cost = max(situation.proposed.cost, told)
        cost += sum(told.cost for told in turn.history if told.key in fresh)
        question = Question(request, vault, choice.kind.value, kinds, cost, fresh)
        return self._looked_up(question, turn)

    def drafted(self, question: Question, draft: str) -> Question:
        """Return a question in the place of another: one that tells nothing of the user."""
        request = replace(question.request, messages=({"role": "user", "content": draft},))
        return Question(request, question.vault, "delegate", {}, RESIDUAL)

    def charge(self, question: Question, situation: Situation) -> str | None:
        """Count what a question discloses; return why it may not be asked, None if it may."""
        if question.reply is not None:
            return None  # nothing leaves
        proposed = replace(situation.proposed, decision=Route.HYBRID, cost=question.cost)
        turn = situation.turn
        counted = self._manager.charge(proposed, user=turn.user, session=turn.session)
        if counted.decision is Route.LOCAL:
            return counted.reasons[-1]
        for key in question.fresh:
            self._told[key] = None
        while len(self._told) > _MAX_TOLD:
            self._told.pop(next(iter(self._told)), None)
        return None

    def ask(self, question: Question, turn: Turn) -> Exchange:
        """Return the question under way once its block is entered; nothing is sent before."""
        return Exchange(
            self._cloud,
            question.request,
            question.vault,
            question.why,
            turn.user,
            turn.session,
            self._deadline_s,
        )

    def listen(
        self, question: Question, call: Exchange | None, writer: Writer, merger: Merger
    ) -> Advice:
        """Show an answer as it comes, with its values.

        Args:
            question: that was asked.
            call: under way; None: the answer is the question's, from the cache.
            writer: takes what is shown.
            merger: filters it by what the device said.

        Raises:
            CloudError, EgressRefusedError, InputError: as the cloud client.
            TeeError: the guard failed, so that values cannot be put back.
        """
        restorer = Restorer(question.vault)
        begun = len(writer.text)
        reply = question.reply
        if call is not None:
            for piece in call.pieces():
                writer.write(merger.feed(restorer.feed(piece)))
            text = "".join(delta.text for delta in call.received)
            reply = CachedReply(text, call.tool_calls, call.finish_reason or "stop")
            if self._cache is not None and (text.strip() or reply.tool_calls):
                self._cache.put(question.cached, reply)
        elif reply is not None:
            writer.write(merger.feed(restorer.feed(reply.text)))
        writer.write(merger.feed(restorer.finish()) + merger.finish())
        told = reply or CachedReply("")
        calls = tuple(restore_call(question.vault, one) for one in told.tool_calls)
        done = None if call is None else call.reply
        facts: dict[str, object] = {"finish_reason": told.finish_reason, "cached": call is None}
        if done is not None:
            facts |= {"provider": done.provider, "model": done.model, "usd": done.usd}
            facts |= {"prompt_tokens": done.prompt_tokens, "tokens": done.completion_tokens}
        facts |= {"repeated": merger.repeated} if merger.repeated else {}
        facts |= {"overruled": merger.overruled} if merger.overruled else {}
        usd = 0.0 if done is None else done.usd
        if not (told.text.strip() or calls):
            raise CloudError("the provider sent an empty answer", "empty")
        return Advice(writer.text[begun:], calls, told.finish_reason, facts, usd)

    def _looked_up(self, question: Question, turn: Turn) -> Question:
        if self._cache is None:
            return question
        everybodys = turn.found.level is Level.PUBLIC and not turn.history and not question.masked
        number = 0 if everybodys else question.vault.number
        name = getattr(self._cloud, "name", "")
        key = self._cache.key(question.request, name, number, turn.user)
        return replace(question, cached=key, reply=self._cache.get(key))


def is_plain(situation: Situation) -> bool:
    """Whether PUBLIC segments of a mixed query go alone, which hold nothing to be masked.

    They were read one by one, and egress reads them together; a third time would tell nothing new.
    What looks like a placeholder is masked in any case, so that it does not come back as a value.
    """
    proposed, going = situation.proposed, situation.divided.going
    return bool(proposed.sent) and not proposed.masked and "[" not in going


def _request(
    messages: tuple[Mapping[str, object], ...],
    options: GenerationConfig,
    tools: Sequence[Mapping[str, object]],
) -> CloudRequest:
    sampling = options.sampling
    return CloudRequest(
        messages,
        max_tokens=options.max_tokens,
        temperature=0.0 if sampling is None else min(2.0, sampling.temperature),
        top_p=1.0 if sampling is None else sampling.top_p,
        stop=options.stop,
        seed=None if sampling is None else sampling.seed,
        tools=tuple(tools),
    )
