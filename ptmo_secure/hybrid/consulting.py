"""The cloud's part of an answer: the question as it may be asked, and what comes back."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.streaming import StopMatcher
from ptmo_secure.errors import CloudError
from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.cache import CachedReply, Place, ResponseCache
from ptmo_secure.hybrid.calls import parted
from ptmo_secure.hybrid.deciding import Choice, Situation
from ptmo_secure.hybrid.device import Writer
from ptmo_secure.hybrid.disguising import Disguise, Disguiser
from ptmo_secure.hybrid.exchange import ClearedCloud, Exchange
from ptmo_secure.hybrid.reading import Turn
from ptmo_secure.hybrid.replaying import BETWEEN
from ptmo_secure.hybrid.restoring import Restorer, restore, restore_call
from ptmo_secure.hybrid.telling import Message, Told, cost_of, text_of
from ptmo_secure.offload.actions import Kind
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.privacy.risk import RESIDUAL
from ptmo_secure.types import Level, Route
from tee_sim.client import Filler, Vault, kinds_in, names_in

_COPY = "Words in square brackets stand for private values. Copy them exactly as they are."
_MAX_TOLD = 65_536  # messages that are remembered as told


@dataclass(frozen=True, slots=True)
class Question:
    """What a cloud would be asked.

    Args:
        request: masked.
        vault: that masked it.
        why: code for the egress log.
        masked: number of placeholders per kind in all that would be sent.
        cost: epsilon that asking it discloses, with what of the conversation is told first now.
        fresh: keys of these earlier messages.
        history_cost: the part of `cost` that they make up.
        cached: its place in the cache; None: it is always asked.
        reply: an answer from the cache.
        carries: whether placeholders stand in the last message.
        names: of the placeholders in it that the vault wrote.
        disguise: of its tools, and the way back.
    """

    request: CloudRequest
    vault: Vault
    why: str
    masked: Mapping[str, int]
    cost: float
    fresh: frozenset[bytes] = frozenset()
    history_cost: float = 0.0
    cached: Place | None = None
    reply: CachedReply | None = None
    carries: bool = False
    names: frozenset[str] = frozenset()
    disguise: Disguise = field(default_factory=Disguise)

    @property
    def filler(self) -> Filler:
        """What fills in an answer to it.

        Security: a cloud that writes a number which it was not told gets no value into a text that
        others may see, such as the arguments of a tool; nor does one that guesses what another
        conversation of this vault holds.
        """
        return Filler(self.vault, self.names)


@dataclass(frozen=True, slots=True)
class Advice:
    """What a cloud answered, with the values in their places.

    Args:
        text: restored; what was shown of it.
        tool_calls: restored.
        finish_reason: the provider's.
        facts: codes and counts for the trace.
        usd: what it cost.
        said: the message as the cloud wrote it, with placeholders.
    """

    text: str
    tool_calls: tuple[Mapping[str, object], ...]
    finish_reason: str
    facts: Mapping[str, object]
    usd: float = 0.0
    said: Message | None = None


class Consultant:
    """Asks a cloud; thread-safe.

    Args:
        cloud: is asked.
        manager: counts what is disclosed.
        cache: of answers; None keeps none.
        deadline_s: of an answer; None: the provider's own.

    Security: text goes out only masked by the session's vault, inside a clearance for it, after the
    budget was charged. What comes back is a stranger's text: placeholders of what was asked are
    filled, others and links are not, and nothing in it is obeyed.
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
        self._disguiser = Disguiser(cloud.egress)
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
            InputError: the tools have more names than can be told by others.
        """
        turn, vault = situation.turn, situation.turn.vault
        if choice.kind is Kind.LOCAL or vault is None or not situation.divided.going:
            return None
        told = self._last(situation, vault)
        if told is None:
            return None
        own = _placeholders(vault, (told,))
        kinds = own + _placeholders(vault, turn.history)
        for one in (*turn.history, told):
            self._cloud.egress.know(vault, one.familiar)
        disguise = self._disguiser.disguise(vault, tools, (*turn.history, told))
        hint = [{"role": "system", "content": _COPY}] if kinds else []
        request = _request((*hint, *disguise.messages), options, disguise.tools)
        fresh = frozenset(told.key for told in turn.history if told.key not in self._told)
        cost = max(situation.proposed.cost, told.cost)
        before = sum(told.cost for told in turn.history if told.key in fresh)
        why = choice.kind.value
        question = Question(
            request,
            vault,
            why,
            kinds,
            cost + before,
            fresh,
            before,
            carries=bool(own),
            names=_names((*turn.history, told)),
            disguise=disguise,
        )
        return self._looked_up(question, turn)

    def _last(self, situation: Situation, vault: Vault) -> Told | None:
        """Return what of the last message would be asked; None where masks do not make it fit."""
        turn, text = situation.turn, situation.divided.going
        if turn.sent is not None:
            return turn.sent
        cost = RESIDUAL
        if not is_plain(situation):
            same = turn.masked is not None and text == turn.query
            masked = turn.masked if same and turn.masked is not None else vault.mask(text)
            if masked.level == "PRIVATE":
                return None  # together its parts tell more than each by itself
            text, cost = masked.text, cost_of(masked)
        return Told(({"role": "user", "content": text},), cost)

    def drafted(self, question: Question, draft: str) -> Question:
        """Return a question in the place of another: one that tells nothing of the user.

        No tool is offered with it: a call would be about the draft, and its arguments too.
        """
        draft_alone = ({"role": "user", "content": draft},)
        request = replace(question.request, messages=draft_alone, tools=())
        return Question(request, question.vault, "delegate", {}, RESIDUAL)

    def charge(self, question: Question, situation: Situation) -> str | None:
        """Count what a question discloses; return why it may not be asked, None if it may."""
        if question.reply is not None:
            return None  # nothing leaves
        refusal = self.disclose(situation, question.cost)
        if refusal is not None:
            return refusal
        for key in question.fresh:
            self._told[key] = None
        while len(self._told) > _MAX_TOLD:
            self._told.pop(next(iter(self._told)), None)
        return None

    def disclose(self, situation: Situation, cost: float) -> str | None:
        """Count a cost in epsilon; return why it may not be disclosed, None if it may."""
        proposed = replace(situation.proposed, decision=Route.HYBRID, cost=cost)
        turn = situation.turn
        counted = self._manager.charge(proposed, user=turn.user, session=turn.session)
        return counted.reasons[-1] if counted.decision is Route.LOCAL else None

    @property
    def cloud(self) -> ClearedCloud:
        """Who is asked."""
        return self._cloud

    def ask(self, question: Question, turn: Turn) -> Exchange:
        """Return the question under way once its block is entered; nothing is sent before.

        It was charged before. Where certainly nothing of it left, that is given back when the block
        ends, all but what its history costs: others may count on that having been paid.
        """

        def unsent() -> None:
            self._manager.give_back(
                turn.user, turn.session, question.cost, question.cost - question.history_cost
            )

        return Exchange(
            self._cloud,
            question.request,
            question.vault,
            question.why,
            turn.user,
            turn.session,
            self._deadline_s,
            unsent,
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
        restorer = Restorer(question.filler)
        begun = len(writer.text)
        reply = question.reply
        if call is not None:
            ending = StopMatcher(question.request.stop)  # whatever the cloud makes of it
            text = ""
            for shown in _ended(call.pieces(), ending):
                text += shown
                writer.write(merger.feed(restorer.feed(shown)))
            finish_reason = "stop" if ending.stopped else call.finish_reason or "stop"
            reply = CachedReply(text, call.tool_calls, finish_reason)
            if self._cache is not None and (reply.text.strip() or reply.tool_calls):
                self._cache.put(question.cached, reply)
        elif reply is not None:
            writer.write(merger.feed(restorer.feed(reply.text)))
        writer.write(merger.feed(restorer.finish()) + merger.finish())
        told = reply or CachedReply("")
        offered, other = parted(told.tool_calls, question.request.tools)
        own = map(question.disguise.undone, offered)
        writer.write(restore(question.filler, other))
        calls = tuple(restore_call(question.filler, one) for one in own)
        done = None if call is None else call.reply
        facts: dict[str, object] = {"finish_reason": told.finish_reason, "cached": call is None}
        if done is not None:
            facts |= {"provider": done.provider, "model": done.model, "usd": done.usd}
            facts |= {"prompt_tokens": done.prompt_tokens, "tokens": done.completion_tokens}
        facts |= {"likeness": round(told.likeness, 3)} if told.likeness < 1 else {}
        facts |= {"repeated": merger.repeated} if merger.repeated else {}
        facts |= {"overruled": merger.overruled} if merger.overruled else {}
        usd = 0.0 if done is None else done.usd
        if not (told.text.strip() or other or calls):
            raise CloudError("the provider sent an empty answer", "empty")
        said: dict[str, object] = {"role": "assistant", "content": told.text}
        said |= {"tool_calls": list(told.tool_calls)} if told.tool_calls else {}
        return Advice(writer.text[begun:], calls, told.finish_reason, facts, usd, said)

    def _looked_up(self, question: Question, turn: Turn) -> Question:
        if self._cache is None:
            return question
        everybodys = turn.found.level is Level.PUBLIC and not turn.history and not question.masked
        number = 0 if everybodys else question.vault.number
        name = getattr(self._cloud, "name", "")
        key = self._cache.key(question.request, name, number, turn.user)
        return replace(question, cached=key, reply=self._cache.get(key))


def _placeholders(vault: Vault, told: Iterable[Told]) -> Counter[str]:
    """Return how many placeholders of each kind stand in messages that would be sent.

    A cloud's own words may hold what only looks like one.
    """
    kinds = Counter[str]()
    for one in told:
        text = BETWEEN.join(map(text_of, one.messages))
        found = kinds_in(text)
        if found and not (one.heard and vault.unmask(text) == text):
            kinds.update(found)
    return kinds


def _names(told: Iterable[Told]) -> frozenset[str]:
    """Return the placeholders that the vault wrote into what a cloud is told.

    What a cloud said itself is none of it: it would only have to write a number twice.
    """
    said = (text_of(message) for one in told if not one.heard for message in one.messages)
    return frozenset().union(*map(names_in, said))


def _ended(pieces: Iterable[str], ending: StopMatcher) -> Iterator[str]:
    """Yield what stands before the first stop string."""
    for piece in pieces:
        yield ending.push(piece)
    yield ending.finish()


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
