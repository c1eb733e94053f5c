"""The messages of a conversation, one after the other, each judged as when it was the last."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ptmo_secure.cloud.body import BodyError, texts_of
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.memory import ALL, Memory, Recent, exchange_before
from ptmo_secure.hybrid.segments import divide, says_nothing_alone, speaks_of_own
from ptmo_secure.hybrid.telling import (
    NOT_SHOWN,
    NOTHING,
    Limit,
    Message,
    Told,
    calls_of,
    cut_message,
    fitting,
    is_known,
    known_values,
    mask_message,
    masked_call,
    text_of,
)
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.types import PrivateSpan
from tee_sim.client import Span, Vault

STICKY_TURNS = 2  # of the user's, after which a withheld turn is no longer close
BETWEEN = "\n\n"
_MAX_REMEMBERED = 8192
_Span = PrivateSpan | Span


@dataclass(frozen=True, slots=True)
class Past:
    """What a cloud may be told before, or instead of, a last message.

    Args:
        history: what of the earlier messages may be told.
        withheld: how many of them may not, or not all.
        sticky: whether one of these is close.
        silent: whether of the turn before the last message, or of its answer, nothing may be told.
        revealed: whether the last message is private in the light of what was said before it.
        sent: the last message, where it is none of the user's and may be told.
    """

    history: tuple[Told, ...]
    withheld: int
    sticky: bool
    silent: bool
    revealed: bool
    sent: Told | None = None


class Archive:
    """What replays remember of messages, and read new ones with. Thread-safe.

    Args:
        guard: reads.
        manager: says which segments may go.

    Security: keeps messages in the form a cloud may see, under keyed hashes of what they were: no
    value of a vault, and nothing withheld.
    """

    def __init__(self, guard: SharedGuard, manager: PrivacyManager) -> None:
        self._guard, self._manager = guard, manager
        self.memory = Memory()
        self.known: Recent[Told] = Recent(_MAX_REMEMBERED)
        self.revealed: Recent[bool] = Recent(_MAX_REMEMBERED)

    def told(
        self,
        vault: Vault,
        message: Message,
        limit: Limit,
        kept: Collection[int] = (),
        spoken: str = "",
    ) -> Told:
        """Return what may be told of a message by itself; its values are in the vault then.

        Args:
            vault: of the session.
            message: not a cloud's.
            limit: what may be told of it.
            kept: numbers of its segments that its user keeps.
            spoken: what the cloud knows, for calls and results of tools.
        """
        written = json.dumps(message, sort_keys=True, default=str)
        key = self.memory.key("told", vault.number, limit, sorted(kept), written, spoken)
        known = self.known.get(key)
        if known is None:
            known = self._told(vault, message, limit, kept, spoken, key)
            self.known.put(key, known)
        return known

    def reveals(
        self,
        vault: Vault,
        messages: Sequence[Message],
        at: int,
        whole: Iterable[_Span],
        spoken: str,
    ) -> bool:
        """Whether what was said before a message tells more about it than it does by itself.

        Args:
            vault: of the session.
            messages: the conversation.
            at: place of the message.
            whole: what is private in its part of the conversation, from its beginning on.
            spoken: what the cloud knows.
        """
        text = text_of(messages[at])
        alone = vault.mask(text).spans
        if shows(alone, whole, text, spoken):
            return True
        before = BETWEEN.join(filter(None, map(text_of, exchange_before(messages, at))))
        if not before or not text:
            return False
        start = len(before) + len(BETWEEN)
        scanned = self._guard.scan(f"{before}{BETWEEN}{text}").spans
        return shows(alone, moved(scanned, start), text, spoken)

    def _told(
        self,
        vault: Vault,
        message: Message,
        limit: Limit,
        kept: Collection[int],
        spoken: str,
        key: bytes,
    ) -> Told:
        costs: list[float] = []
        used: set[str] = set()

        def known(text: str) -> Sequence[str]:
            values = known_values(self._guard.scan(text), text, spoken) if spoken else ()
            used.update(values)
            return values

        role, text, calls = (message.get(name) for name in ("role", "content", "tool_calls"))
        shown: dict[str, object] = {
            name: message[name] for name in ("role", "tool_call_id") if name in message
        }
        shown["content"], whole, refers_back = text if isinstance(text, str) else "", True, False
        if isinstance(text, str) and text.strip():
            if role == "user":
                refers_back = vault.mask(text).refers_back  # all: egress knows what stays
                text, whole = self._going(text, kept)
            if role == "assistant":
                masked = cut_message(vault, text, self._guard.scan, costs)
            else:
                familiar = known(text) if role == "tool" else ()
                masked = mask_message(vault, text, costs, limit, familiar)
            if masked is None and role != "tool":
                return Told((), key=key, refers_back=refers_back)
            shown["content"] = NOT_SHOWN if masked is None else masked
            whole = whole and masked is not None
        if isinstance(calls, (list, tuple)) and calls:
            told = [masked_call(vault, call, costs, limit, known) for call in calls]
            if any(call is None for call in told):
                return Told((), key=key)
            shown["tool_calls"] = told
        texts = tuple(t for t in _texts(shown) if any(value in t for value in used))
        return Told((shown,), sum(costs), key, whole, familiar=texts, refers_back=refers_back)

    def _going(self, text: str, kept: Collection[int]) -> tuple[str, bool]:
        """Return what of an earlier message of the user's may go, unmasked, and whether all may."""
        divided = divide(self._manager.propose(text), text, kept)
        return divided.going, divided.stays == 0


class Replay:
    """One conversation. One thread uses it.

    Args:
        archive: remembers and reads.
        vault: of the session.
        user: whose.
        messages: as in the OpenAI chat API; not empty.
        marked: places of earlier messages that their user keeps on the device.
        alone: what is private in the last of them by itself.
        spans: what is private in all as one text, in which they are `BETWEEN` apart.
    """

    def __init__(
        self,
        archive: Archive,
        vault: Vault,
        user: str,
        messages: Sequence[Message],
        marked: Collection[int],
        alone: Iterable[_Span],
        spans: Iterable[_Span],
    ) -> None:
        self._archive, self._vault, self._user = archive, vault, user
        self._messages, self._marked, self._spans = messages, frozenset(marked), tuple(spans)
        self._alone = tuple(alone)
        self._starts = _starts(messages)
        self._secret = [False]  # of each turn of the user's, what came before them first
        self._withheld = 0
        self._spoken = ""  # by the user to the cloud, and by the cloud
        self._silent = self._strict = False  # of the turn, nothing or not all is told

    def _is_revealed(self, at: int) -> bool:
        """Whether a message is private in the light of what was said before it."""
        if not at:
            return False
        memory = self._archive.memory
        place = memory.place(self._user, self._messages, at)
        key = memory.key("revealed", self._vault.number, place.hex())
        known = self._archive.revealed.get(key)
        if known is not None and at + 1 < len(self._messages):
            return known
        whole = moved(self._spans, self._starts[at])
        if at + 1 == len(self._messages):
            text = text_of(self._messages[at])
            found = shows(self._alone, whole, text, self._spoken)
        else:
            found = self._archive.reveals(self._vault, self._messages, at, whole, self._spoken)
        self._archive.revealed.put(key, known or found)
        return found

    def past(self) -> Past:
        """Return what may be told. Called once."""
        last = len(self._messages) - 1
        told = [self._next(at) for at in range(last)]
        before = self._withheld, self._sticky(), self._silent
        final = None if self._messages[last].get("role") == "user" else self._next(last)
        told += [] if final is None else [final]
        history = fitting(self._vault, [one for one in told if one.messages])
        revealed = self._is_revealed(last)
        if final is None or not history or history[-1] is not final:
            return Past(history, *before, revealed)
        sent = final if final.whole and not revealed else None
        return Past(history[:-1], *before, revealed, sent)

    def _next(self, at: int) -> Told:
        role = self._messages[at].get("role")
        if role == "user":
            seen = self._of_user(at)
            self._silent, self._strict = not seen.messages, not seen.whole
            self._secret.append(not seen.whole)
        elif role not in ("assistant", "tool"):
            seen = self._of_system(at)
        elif self._silent:
            seen = NOTHING
        elif role == "assistant":
            seen = self._of_assistant(at)
            self._silent = not seen.messages
        else:
            seen = self._of_tool(at)
            self._strict = self._strict or not seen.whole
            self._secret[-1] = self._secret[-1] or not seen.whole
        self._withheld += not seen.whole
        if role == "assistant" and not seen.messages:
            self._archive.memory.hold_back(self._user, self._messages[at])
        if role == "user" or seen.heard:
            self._spoken += "\n".join(map(text_of, seen.messages)) + "\n"
        return seen

    def _of_system(self, at: int) -> Told:
        # Programs send one prompt with every conversation: kept is that of those with a kept turn
        users = (i for i, one in enumerate(self._messages) if one.get("role") == "user")
        if self._kept(at) and any(ALL <= self._kept(i) for i in users):
            return NOTHING
        return self._archive.told(self._vault, self._messages[at], "masked")

    def _of_user(self, at: int) -> Told:
        message = self._messages[at]
        seen = self._archive.told(self._vault, message, "request", self._kept(at))
        spoken = refers(text_of(message), seen.refers_back, self._sticky(), self._silent)
        own = self._withheld > 0 and speaks_of_own(text_of(message))
        stays = spoken or own or self._stayed(at) or self._is_revealed(at)
        return NOTHING if stays else seen

    def _of_assistant(self, at: int) -> Told:
        message = self._messages[at]
        asked = self._messages[at - 1] if at else None
        memory, number = self._archive.memory, self._vault.number
        said = memory.words(self._user, number, asked, message)
        if said is not None:
            key = memory.key("heard", number, said)
            own = (_as_here(said, message),)
            return Told(own, 0.0, key, whole=True, heard=True, familiar=_texts(said))
        # The device's, as far as is known, which was shown all of the conversation, and of a
        # question that was kept once perhaps what that request alone had
        if self._withheld or (asked is not None and memory.was_kept(self._user, asked)):
            return NOTHING
        if self._kept(at) or self._stayed(at):  # its client may have left out what it answers
            return NOTHING
        spoken = self._spoken if message.get("tool_calls") else ""
        told = self._archive.told(self._vault, message, "masked", (), spoken)
        return replace(told, messages=tuple(_as_here(one, message) for one in told.messages))

    def _of_tool(self, at: int) -> Told:
        message = self._messages[at]
        limit: Limit = "public" if self._strict else "masked"
        seen = self._archive.told(self._vault, message, limit, (), self._spoken)
        if seen.messages and (self._kept(at) or self._stayed(at) or self._is_revealed(at)):
            return replace(
                seen, messages=({**seen.messages[0], "content": NOT_SHOWN},), whole=False
            )
        return seen

    def _kept(self, at: int) -> frozenset[int]:
        if at in self._marked:
            return ALL
        wish = self._archive.memory.wish(self._user, self._messages, at)
        return frozenset() if wish is None else wish

    def _stayed(self, at: int) -> bool:
        return self._archive.memory.stayed(self._user, self._messages, at)

    def _sticky(self) -> bool:
        return any(self._secret[-STICKY_TURNS:])


def refers(text: str, back: bool, sticky: bool, silent: bool) -> bool:
    """Whether a message speaks of what stayed before it, or may.

    Args:
        text: of the user's.
        back: whether a word of it stands for something, by the guard.
        sticky, silent: as of `Past`.
    """
    return (back and sticky) or (silent and says_nothing_alone(text))


def shows(alone: Iterable[_Span], whole: Iterable[_Span], text: str, spoken: str) -> bool:
    """Whether spans found in a text's surroundings hold more of it than those found in it alone.

    Args:
        alone, whole: by their places in the text; of `whole` they may reach beyond it.
        text: of a message.
        spoken: what the cloud knows: a name of it that is said again tells nothing more.
    """
    own = [range(span.start, span.end) for span in alone]
    for span in whole:
        low, high = max(span.start, 0), min(span.end, len(text))
        if low >= high or is_known(span.kind, text[low:high], spoken):
            continue
        if not all(any(at in known for known in own) for at in range(low, high)):
            return True
    return False


def moved(spans: Iterable[_Span], start: int) -> list[PrivateSpan]:
    """Return spans by their places in what begins at `start`."""
    return [
        PrivateSpan(s.start - start, s.end - start, s.kind, s.severity, s.source) for s in spans
    ]


def _starts(messages: Sequence[Message]) -> list[int]:
    """Return where each message begins in the conversation as one text."""
    starts, at = [], 0
    for message in messages:
        starts.append(at)
        size = len(text_of(message))
        at += size + len(BETWEEN) if size else 0
    return starts


def _texts(message: Message) -> tuple[str, ...]:
    """Return the texts of a message as egress reads them; none where it cannot."""
    try:
        return tuple(text.text for text in texts_of(json.dumps([message]).encode()))
    except BodyError:
        return ()


def _as_here(said: Message, message: Message) -> Message:
    """Return a message with the ids that its calls have here, and the names that it lacks."""
    calls, own = said.get("tool_calls"), message.get("tool_calls")
    if not isinstance(calls, list) or not isinstance(own, (list, tuple)):
        return said
    names = [name for name, _ in calls_of(message)]
    named = [
        {**call, "id": str(mine.get("id", "")), "function": {"name": name, **call["function"]}}
        for call, mine, name in zip(calls, own, names, strict=True)
    ]
    return {**said, "tool_calls": named}
