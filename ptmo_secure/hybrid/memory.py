"""What is remembered between the requests of a conversation, each of which brings all of it.

Three things cannot be read off a conversation: what its user kept on the device, which turns were
answered without a word of theirs leaving it, and which words are a cloud's own. They are remembered
here under keyed hashes; after a restart none is known, and the rules of `reading` hold for all.
"""

import hashlib
import json
import secrets
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from ptmo_secure.hybrid.telling import Message, calls_of

MAX_WISHES = 65_536
MAX_WORDS_CHARS = 16 << 20
_SYSTEM = ("system", "developer")
ALL = frozenset({-1})
"""In the place of numbers of segments: the whole message stays."""

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """A map that lets go of what was not used for longest. Thread-safe.

    Args:
        most: sizes of its values together.
        size: of a value.
    """

    def __init__(self, most: int, size: Callable[[_T], int] = lambda _: 1) -> None:
        self._most, self._size_of, self._size = most, size, 0
        self._lock = threading.Lock()
        self._values: OrderedDict[bytes, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> _T | None:
        """Return a value, which counts as used; None where it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: bytes, value: _T) -> None:
        """Remember a value, in the place of what its key had."""
        with self._lock:
            if key in self._values:
                self._size -= self._size_of(self._values.pop(key))
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._most:
                self._size -= self._size_of(self._values.popitem(last=False)[1])


class Memory:
    """What users kept, what stayed, and what clouds said. Thread-safe.

    Wishes outlive the vault and hold for all sessions of a user. One is found by its message, the
    exchange before it and the system prompt, else by its message alone, so that a client may leave
    out old messages or change its system prompt. One that is taken back is so in its own place: the
    same words ("Hello") under another prompt take nothing back. The words of a cloud are found by
    the vault that masked what was asked, the message that they answer, and what was shown of them.

    Security: keys are keyed hashes. Of users it keeps numbers of segments; of clouds what they
    wrote, with placeholders: no value. Beyond `MAX_WISHES` the oldest wish is forgotten, and so is
    what became of the oldest turn.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._wishes: Recent[frozenset[int]] = Recent(MAX_WISHES)
        self._seen: Recent[bool] = Recent(MAX_WISHES)
        self._settled: Recent[bool] = Recent(MAX_WISHES)
        self._words: Recent[Message] = Recent(MAX_WORDS_CHARS, _chars)

    def key(self, *parts: object) -> bytes:
        """Return the keyed hash of JSON values."""
        return keyed(self._salt, *parts)

    def note(
        self,
        user: str,
        messages: Sequence[Message],
        kept: Collection[int],
        marked: Collection[int] = (),
        *,
        local: bool = False,
    ) -> None:
        """Remember what becomes of the last message of a request by its user's wish.

        Args:
            user: whose.
            messages: the conversation.
            kept: numbers of the segments of the last message that stay; none takes back what was
                said of it in the same place before.
            marked: places of earlier messages that stay whole.
            local: nothing of the request may leave: all that was not in one that may.
        """
        last = len(messages) - 1
        places = [self.place(user, messages, at) for at in range(last + 1)]
        stays = {*marked} & {*range(last)}
        if local:
            stays |= {at for at in range(last) if self._seen.get(places[at]) is None} | {last}
        for at in sorted(stays):
            self._keep(user, messages, at, ALL)
        if local:
            return
        for place in places:
            self._seen.put(place, True)
        if kept or self.wish(user, messages, last) is not None:
            self._keep(user, messages, last, frozenset(kept))

    def wish(self, user: str, messages: Sequence[Message], at: int) -> frozenset[int] | None:
        """Return the segments of a message that its user keeps; None where nothing is known."""
        known = self._wishes.get(self._prompted(user, messages, at))
        return self._wishes.get(self._alone(user, messages[at])) if known is None else known

    def was_kept(self, user: str, message: Message) -> bool:
        """Whether a message, or a part of it, was kept anywhere, be it taken back since."""
        return bool(self._wishes.get(self._alone(user, message)))

    def settle(self, user: str, messages: Sequence[Message], *, told: bool) -> None:
        """Remember whether the last message of a request was itself told a cloud.

        Args:
            user: whose.
            messages: the conversation.
            told: whether it left, or may have; what left once has left. If not, its turn stayed
                with it, as far as nothing of that left before.
        """
        last = len(messages) - 1
        if told:
            self._settled.put(self.place(user, messages, last), True)
            self._settled.put(self._settled_alone(user, messages[last]), True)
            return
        turn = (at for at in range(last, -1, -1) if messages[at].get("role") == "user")
        for at in range(next(turn, last), last + 1):
            place = self.place(user, messages, at)
            if not self._settled.get(place):
                self._settled.put(place, False)
                self._settled.put(self._settled_alone(user, messages[at]), False)

    def hold_back(self, user: str, message: Message) -> None:
        """Remember that an answer stayed, for when a client leaves out what it answers."""
        key = self._settled_alone(user, message)
        if not self._settled.get(key):
            self._settled.put(key, False)

    def stayed(self, user: str, messages: Sequence[Message], at: int) -> bool:
        """Whether a message is known to have stayed when its turn was answered.

        It is found as a wish is: in its place, else alone.
        """
        told = self._settled.get(self.place(user, messages, at))
        if told is None:
            told = self._settled.get(self._settled_alone(user, messages[at]))
        return told is False

    def hear(
        self, user: str, vault: int, asked: Message | None, shown: Message, said: Message
    ) -> None:
        """Remember a cloud's words.

        Args:
            user: who asked.
            vault: number of the vault that masked it.
            asked: the last message of that conversation.
            shown: the answer as its user got it.
            said: what of it the cloud wrote, as it came.
        """
        self._words.put(self._answer(user, vault, asked, shown), said)

    def words(self, user: str, vault: int, asked: Message | None, shown: Message) -> Message | None:
        """Return what a cloud wrote of an answer; None where it is not known that it wrote any."""
        return self._words.get(self._answer(user, vault, asked, shown))

    def _keep(self, user: str, messages: Sequence[Message], at: int, kept: frozenset[int]) -> None:
        alone = self._alone(user, messages[at])
        self._wishes.put(alone, kept | (self._wishes.get(alone) or frozenset()))
        self._wishes.put(self._prompted(user, messages, at), kept)

    def _alone(self, user: str, message: Message) -> bytes:
        return self.key("wish", user, _form(message))

    def _settled_alone(self, user: str, message: Message) -> bytes:
        return self.key("settled", user, _form(message))

    def place(self, user: str, messages: Sequence[Message], at: int) -> bytes:
        """Return the keyed hash of a message and the exchange before it."""
        around = [_form(message) for message in exchange_before(messages, at)]
        return self.key("place", user, around, _form(messages[at]))

    def _prompted(self, user: str, messages: Sequence[Message], at: int) -> bytes:
        """Return the keyed hash of a message's place and of the system prompts before it."""
        prompts = [_form(one) for one in messages[:at] if one.get("role") in _SYSTEM]
        return self.key("prompted", prompts, self.place(user, messages, at).hex())

    def _answer(self, user: str, vault: int, asked: Message | None, shown: Message) -> bytes:
        return self.key("words", user, vault, asked and _form(asked), _form(shown))


def keyed(salt: bytes, *parts: object) -> bytes:
    """Return the hash of JSON values under a key."""
    written = json.dumps(parts, sort_keys=True, default=str).encode()
    return hashlib.blake2b(written, key=salt, digest_size=16).digest()


def exchange_before(messages: Sequence[Message], at: int) -> list[Message]:
    """Return the messages before one, from the user's last on, without the system's."""
    first = next((i for i in range(at - 1, -1, -1) if messages[i].get("role") == "user"), 0)
    return [m for m in messages[first:at] if m.get("role") not in _SYSTEM]


def _form(message: Message) -> list[object]:
    """Return what makes a message the same: not its blanks, nor the ids of its calls."""
    text = unicodedata.normalize("NFC", str(message.get("content") or ""))
    calls = [[name, _parsed(said)] for name, said in calls_of(message)]
    return [str(message.get("role")), " ".join(text.split()), calls]


def _parsed(said: object) -> str:
    try:
        value = json.loads(said) if isinstance(said, str) else said
        return json.dumps(value, sort_keys=True, default=str)
    except (ValueError, RecursionError):
        return str(said)


def _chars(message: Message) -> int:
    return 256 + len(json.dumps(message, default=str))
