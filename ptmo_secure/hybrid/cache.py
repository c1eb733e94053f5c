"""Answers of a cloud that were given before, so that the same question leaves the device once.

What is kept is what the cloud sent, with placeholders in it. An answer to a question that is wholly
PUBLIC, without placeholders and without a conversation before it, serves every user; any other one
only the vault that masked its question, since a placeholder means nothing elsewhere.

Questions count as the same when what would be sent is the same, byte for byte. With an encoder
those count as well whose vectors are near and whose marks (`likeness`) are equal, where all else of
the request, the conversation before it included, is the same.

Security: keys are keyed hashes of requests; no value and no question stands in the cache. Vectors
do, of questions as they were sent: they tell nearly what these told, and stay in this process. A
user who asks a PUBLIC question and is answered at once learns that somebody asked it, or one that
is near it, before.
"""

import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.likeness import marks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CachedReply:
    """An answer as a cloud sent it: masked.

    Args:
        text, tool_calls, finish_reason: as in `CloudReply`.
        likeness: cosine of its question and the one that was asked now.
    """

    text: str
    tool_calls: tuple[Mapping[str, object], ...] = ()
    finish_reason: str = "stop"
    likeness: float = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request's answer is kept.

    Args:
        exact: keyed hash of the request and of whose it is.
        group: the same of all but the question's text, with its marks.
        vector: of that text; None without an encoder.
    """

    exact: bytes
    group: bytes = field(default=b"", compare=False)
    vector: "Vector | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Entry:
    place: Place
    ends_s: float
    size: int
    reply: CachedReply


class Encoder(Protocol):
    """Makes vectors of sentences; `SentenceEncoder` is one."""

    def encode(self, text: str) -> "Vector":
        """Return a vector of length 1; `InputError` for a text that is too long."""


class ResponseCache:
    """Bounded and thread-safe; the entry that was not used for longest goes first.

    Args:
        entries: at most, 1 or more.
        max_bytes: of all answers together, 1 or more.
        ttl_s: seconds after which an answer is asked for anew, above 0.
        clock: monotonic seconds.
        encoder: finds questions that mean the same; None: only the same ones are found.
        least: cosine from which they do, above 0 to 1. The default served no wrong answer on our
            own pairs (docs/pipeline.md).
    """

    def __init__(
        self,
        entries: int = 512,
        max_bytes: int = 8 << 20,
        ttl_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        encoder: Encoder | None = None,
        least: float = 0.95,
    ) -> None:
        if not 0 < least <= 1:
            raise InputError(f"a cache of answers to questions with a cosine of {least}")
        self._encoder, self._least = encoder, least
        if entries < 1 or max_bytes < 1 or not ttl_s > 0:
            raise InputError(f"a cache of {entries} entries, {max_bytes} bytes, {ttl_s} s")
        self._most, self._max_bytes, self._ttl_s, self._clock = entries, max_bytes, ttl_s, clock
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0
        self.hits = self.misses = 0

    def key(self, request: CloudRequest, model: str, vault: int, user: str) -> Place | None:
        """Return the place of a request's answer; None for one that may be answered anew each time.

        Args:
            request: as it would be sent.
            model: who would answer.
            vault: number of the vault that masked it; 0 for a PUBLIC question without placeholders
                and without history, whose answer serves everybody.
            user: whose vault it is; not looked at where that is 0.
        """
        if request.temperature > 0 and request.seed is None:
            return None
        owner = [vault, user] if vault else []
        fields = asdict(request)
        exact = self._hashed([model, owner, fields])
        text = _question(request)
        if self._encoder is None or text is None:
            return Place(exact)
        try:
            vector = self._encoder.encode(text)
        except InputError:  # too long for the encoder
            return Place(exact)
        fields["messages"] = (*fields["messages"][:-1], marks(text))
        return Place(exact, self._hashed([model, owner, fields]), vector)

    def get(self, place: Place | None) -> CachedReply | None:
        """Return an answer that is kept and not too old."""
        with self._lock:
            found = None if place is None else self._found(place)
            if found is None:
                self.misses += 1
                return None
            entry, near = found
            self._kept.move_to_end(entry.place.exact)
            self.hits += 1
            return replace(entry.reply, likeness=near)

    def put(self, place: Place | None, reply: CachedReply) -> None:
        """Keep an answer; one that was cut off, or is larger than the cache, is not kept."""
        if place is None or reply.finish_reason == "length":
            return
        size = len(reply.text.encode("utf-8", "surrogatepass")) + len(str(reply.tool_calls))
        size += 0 if place.vector is None else place.vector.nbytes
        if size > self._max_bytes:
            return
        with self._lock:
            self._drop(place.exact)
            ends_s = self._clock() + self._ttl_s
            self._kept[place.exact] = _Entry(place, ends_s, size, reply)
            self._bytes += size
            while len(self._kept) > self._most or self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def _found(self, place: Place) -> tuple[_Entry, float] | None:
        """Return the entry of a request, or the nearest one of its group, and its cosine."""
        now = self._clock()
        same = self._kept.get(place.exact)
        if same is not None and now < same.ends_s:
            return same, 1.0
        best: tuple[_Entry, float] | None = None
        mine = place.vector
        for entry in self._kept.values() if mine is not None else ():
            other = entry.place
            if other.group != place.group or now >= entry.ends_s:
                continue
            if mine is None or other.vector is None:
                continue
            near = float(mine @ other.vector)
            if near >= max(self._least, best[1] if best else -1.0):
                best = entry, near
        return best

    def _hashed(self, what: object) -> bytes:
        said = json.dumps(what, sort_keys=True, default=str)
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), key=self._salt).digest()

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found.size


def _question(request: CloudRequest) -> str | None:
    """Return the user's last words where they are all that the last message is."""
    last = request.messages[-1] if request.messages else {}
    text = last.get("content")
    plain = set(last) == {"role", "content"} and last["role"] == "user"
    return text if plain and isinstance(text, str) and text.strip() else None
