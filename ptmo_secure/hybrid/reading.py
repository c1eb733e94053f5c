"""What the guard makes of a conversation: how private its last turn is, and what of the turns
before may be told to a cloud.

A cloud sees of an earlier turn what it would have seen of it then: the segments that may go, with
their values masked. A turn that stayed is withheld, and the answers to it too; of a turn that
stayed in part, answers are told only if they are PUBLIC. Otherwise an answer is told masked, unless
it tells a situation, which no mask hides.
"""

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.segments import divide, speaks_of_own
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.privacy.risk import text_cost
from ptmo_secure.privacy.sensitivity import SensitivityClassifier, verdict
from ptmo_secure.types import Level, PrivateSpan, Sensitivity
from tee_sim.client import Masked, Vault

STICKY_TURNS = 2  # of the user's, after which a withheld turn is no longer close
_MAX_REMEMBERED = 8192
_BETWEEN = "\n\n"
Limit = Literal["request", "masked", "public"]
"""What of a message may be told: a request that is not PRIVATE; what masks hide; PUBLIC alone."""

_NOT_SHOWN = "(not shown)"  # in the place of a tool's result, without which its call is refused


@dataclass(frozen=True, slots=True)
class Told:
    """An earlier message as a cloud may see it.

    Args:
        messages: masked; none where it is withheld.
        cost: epsilon that telling it the first time costs.
        key: tells whether it was told before.
        whole: whether nothing of it stayed.
    """

    messages: tuple[Mapping[str, object], ...]
    cost: float = 0.0
    key: bytes = b""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """The last message of a conversation, read.

    Args:
        query: its text.
        found: the guard's verdict on it, in its conversation.
        user, session: whose.
        vault: of the session; None: nothing may leave.
        masked: the query as that masks it.
        history: what of the earlier messages may be told.
        withheld: how many of them may not, or not all.
        sticky: whether one of these is close.
        own: whether the query is about its writer, of whom something was withheld.
    """

    query: str
    found: Sensitivity
    user: str
    session: str
    vault: Vault | None = None
    masked: Masked | None = None
    history: tuple[Told, ...] = ()
    withheld: int = 0
    sticky: bool = False
    own: bool = False

    def facts(self) -> dict[str, object]:
        """What the trace tells of it."""
        found = self.found
        facts: dict[str, object] = {"level": found.level.value, "score": found.score}
        facts |= {"spans": dict(found.kinds), "reason": found.reason}
        if self.history or self.withheld:
            facts |= {"history": len(self.history), "withheld": self.withheld}
        return facts | ({"error": found.error} if found.error else {})


class ConversationReader:
    """Reads conversations; thread-safe.

    Args:
        guard: holds the vaults.
        classifier: rates texts by that guard.
        manager: says which segments may go.

    Security: remembers earlier messages in the form a cloud may see, under keyed hashes of what
    they were: no value of a vault, and nothing withheld.
    """

    def __init__(
        self, guard: SharedGuard, classifier: SensitivityClassifier, manager: PrivacyManager
    ) -> None:
        self._guard, self._classifier, self._manager = guard, classifier, manager
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, Told] = OrderedDict()

    def read(
        self, messages: Sequence[Mapping[str, object]], user: str, session: str, *, stays: bool
    ) -> Turn:
        """Read a conversation whose last message is to be answered.

        Args:
            messages: as in the OpenAI chat API; not empty.
            user, session: whose vault masks it.
            stays: nothing of it can leave the device, so its verdict alone is wanted.

        Returns:
            A turn; whatever fails in the guard makes it PRIVATE, without a vault.
        """
        query = text_of(messages[-1])
        whole = _BETWEEN.join(filter(None, map(text_of, messages)))
        if stays:
            return Turn(query, self._classifier.classify(whole), user, session)
        try:
            vault = self._guard.vault(user, session)
            masked = vault.mask(query)  # also what is PRIVATE: from now on egress looks for it
            found = verdict(masked)
            if len(messages) > 1:
                before = self._guard.scan(whole)
                found = _revealed(found, verdict(before), len(whole) - len(query))
            turn = Turn(query, found, user, session, vault, masked)
            return self._in_conversation(turn, messages[:-1])
        except Exception as failure:  # fail closed, whatever it was
            self._guard.failed()
            error = type(failure).__name__
            broken = Sensitivity(Level.PRIVATE, 1.0, reason="guard_failed", error=error)
            return Turn(query, broken, user, session)

    def _in_conversation(self, turn: Turn, earlier: Sequence[Mapping[str, object]]) -> Turn:
        vault = turn.vault
        if vault is None:
            return turn
        told: list[Told] = []
        withheld, secret, silent, strict = 0, [False], False, False
        for message in earlier:
            role = message.get("role")
            if role == "user":
                secret.append(False)
            answers = role in ("assistant", "tool")
            limit: Limit = "request" if role == "user" else "public" if strict else "masked"
            seen = Told(()) if answers and silent else self._seen(vault, message, limit)
            if role in ("user", "assistant"):
                silent = not seen.messages
            if role == "user":
                strict = not seen.whole
            withheld += not seen.whole
            secret[-1] = secret[-1] or (role == "user" and not seen.whole)
            told += [seen] if seen.messages else []
        history = _paired(_unheld(vault, told))
        sticky = any(secret[-STICKY_TURNS:])
        found = turn.found
        if found.refers_back and sticky:
            found = replace(found, level=Level.PRIVATE, reason="refers_to_private")
        own = withheld > 0 and speaks_of_own(turn.query)
        return replace(
            turn, found=found, history=history, withheld=withheld, sticky=sticky, own=own
        )

    def _seen(self, vault: Vault, message: Mapping[str, object], limit: Limit) -> Told:
        written = json.dumps([limit, message], sort_keys=True, default=str).encode()
        number = vault.number.to_bytes(8, "little")
        key = hashlib.blake2b(number + written, key=self._salt, digest_size=16).digest()
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        told = self._masked(vault, message, limit, key)
        with self._lock:
            self._known[key] = told
            while len(self._known) > _MAX_REMEMBERED:
                self._known.popitem(last=False)
        return told

    def _masked(
        self, vault: Vault, message: Mapping[str, object], limit: Limit, key: bytes
    ) -> Told:
        costs: list[float] = []
        text, calls = message.get("content"), message.get("tool_calls")
        shown: dict[str, object] = {
            name: message[name] for name in ("role", "tool_call_id") if name in message
        }
        shown["content"], whole = text if isinstance(text, str) else "", True
        if isinstance(text, str) and text.strip():
            if message.get("role") == "user":
                vault.mask(text)  # all of it, so that egress knows what stays
                text, whole = self._going(text)
            masked = _mask(vault, text, costs, limit)
            if masked is None and message.get("role") != "tool":
                return Told((), key=key)
            shown["content"] = _NOT_SHOWN if masked is None else masked
            whole = whole and masked is not None
        if isinstance(calls, (list, tuple)) and calls:
            told = [_masked_call(vault, call, costs, limit) for call in calls]
            if any(call is None for call in told):
                return Told((), key=key)
            shown["tool_calls"] = told
        return Told((shown,), sum(costs), key, whole)

    def _going(self, text: str) -> tuple[str, bool]:
        """Return what of an earlier turn of the user's may go, unmasked, and whether all may."""
        divided = divide(self._manager.propose(text), text)
        return divided.going, divided.stays == 0


def text_of(message: Mapping[str, object]) -> str:
    """Return all text of a message: its content, and what its tool calls say."""
    parts = [str(message.get("content") or "")]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        said = function.get("arguments") if isinstance(function, Mapping) else call
        parts.append(said if isinstance(said, str) else json.dumps(said, default=str))
    return _BETWEEN.join(filter(None, parts))


def in_strings(value: object, change: Callable[[str], str]) -> object:
    """Return a JSON value with each of its strings changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: in_strings(inner, change) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_strings(inner, change) for inner in value]
    return value


def _revealed(alone: Sensitivity, whole: Sensitivity, start: int) -> Sensitivity:
    """Return the verdict on a message, raised if what was said before tells more about it.

    Args:
        alone: the verdict on it by itself.
        whole: on the conversation, where it begins at `start`.
    """
    own = [range(span.start, span.end) for span in alone.spans]
    for span in whole.spans:
        low, high = max(span.start, start) - start, span.end - start
        if low < high and not all(any(at in known for known in own) for at in range(low, high)):
            return replace(alone, level=Level.PRIVATE, score=whole.score, reason="told_before")
    return alone


def _mask(vault: Vault, text: str, costs: list[float], limit: Limit) -> str | None:
    """Return a text masked; None where masks do not make it fit to go."""
    if not text:
        return None
    masked = vault.mask(text)
    if masked.topics or (limit == "request" and masked.level == "PRIVATE"):
        return None
    if limit == "public" and masked.level != "PUBLIC":
        return None
    checked = vault.check(masked.text)
    if checked.held is not None or checked.private is not None:
        return None
    costs.append(cost_of(masked))
    return masked.text


def cost_of(masked: Masked) -> float:
    """Return the epsilon that a masked text costs."""
    spans = (PrivateSpan(s.start, s.end, s.kind, s.severity, s.source) for s in masked.spans)
    return text_cost(spans, masked.topics)


def _masked_call(
    vault: Vault, call: object, costs: list[float], limit: Limit
) -> Mapping[str, object] | None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    said = function.get("arguments")
    try:
        value = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return None
    refused: list[str] = []

    def change(text: str) -> str:
        masked = _mask(vault, text, costs, limit)
        if masked is None and text:
            refused.append("")
        return masked or ""

    arguments = json.dumps(in_strings(value, change), ensure_ascii=False)
    if refused:
        return None
    return {
        "id": str(call.get("id", "")),
        "type": "function",
        "function": {"name": str(function.get("name", "")), "arguments": arguments},
    }


def _unheld(vault: Vault, told: Sequence[Told]) -> list[Told]:
    """Return the messages without a value of the vault; some come to it after they were read."""

    def holds(some: Sequence[Told]) -> bool:
        said = "\n".join(text_of(message) for one in some for message in one.messages)
        return vault.check(said, scan=False).held is not None

    return [one for one in told if not holds([one])] if told and holds(told) else list(told)


def _paired(told: Sequence[Told]) -> tuple[Told, ...]:
    """Return messages without calls whose results are not told, and without their other results."""
    answered = {_result_of(one) for one in told}
    kept = [one for one in told if all(ident in answered for ident in _call_ids(one))]
    called = {ident for one in kept for ident in _call_ids(one)}
    return tuple(one for one in kept if _result_of(one) is None or _result_of(one) in called)


def _result_of(one: Told) -> object:
    """Return the id of the call that a message is the result of; None for other messages."""
    message = one.messages[0]
    return message.get("tool_call_id", "") if message.get("role") == "tool" else None


def _call_ids(one: Told) -> list[object]:
    calls = one.messages[0].get("tool_calls")
    return [call["id"] for call in calls] if isinstance(calls, list) else []
