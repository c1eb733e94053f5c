"""Answers of a cloud that were given before, so that the same question leaves the device once.

What is kept is what the cloud sent, with placeholders in it. An answer to a question that is wholly
PUBLIC, without placeholders and without a conversation before it, serves every user; any other one
only the vault that masked its question, since a placeholder means nothing elsewhere.

Questions count as the same when what would be sent is the same, byte for byte.

Security: keys are keyed hashes of requests; no value and no question stands in the cache. A user
who asks a PUBLIC question and is answered at once learns that somebody asked the same before.
"""

import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.errors import InputError


@dataclass(frozen=True, slots=True)
class CachedReply:
    """An answer as a cloud sent it: masked.

    Args:
        text, tool_calls, finish_reason: as in `CloudReply`.
    """

    text: str
    tool_calls: tuple[Mapping[str, object], ...] = ()
    finish_reason: str = "stop"


class ResponseCache:
    """Bounded and thread-safe; the entry that was not used for longest goes first.

    Args:
        entries: at most, 1 or more.
        max_bytes: of all answers together, 1 or more.
        ttl_s: seconds after which an answer is asked for anew, above 0.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        entries: int = 512,
        max_bytes: int = 8 << 20,
        ttl_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if entries < 1 or max_bytes < 1 or not ttl_s > 0:
            raise InputError(f"a cache of {entries} entries, {max_bytes} bytes, {ttl_s} s")
        self._most, self._max_bytes, self._ttl_s, self._clock = entries, max_bytes, ttl_s, clock
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, tuple[float, int, CachedReply]] = OrderedDict()
        self._bytes = 0
        self.hits = self.misses = 0

    def key(self, request: CloudRequest, model: str, vault: int, user: str) -> bytes | None:
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
        said = json.dumps([model, owner, asdict(request)], sort_keys=True, default=str)
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), key=self._salt).digest()

    def get(self, key: bytes | None) -> CachedReply | None:
        """Return an answer that is kept and not too old."""
        with self._lock:
            found = None if key is None else self._kept.get(key)
            if found is None or self._clock() >= found[0]:
                self.misses += 1
                return None
            self._kept.move_to_end(key or b"")
            self.hits += 1
            return found[2]

    def put(self, key: bytes | None, reply: CachedReply) -> None:
        """Keep an answer; one that was cut off, or is larger than the cache, is not kept."""
        size = len(reply.text.encode("utf-8", "surrogatepass")) + len(str(reply.tool_calls))
        if key is None or size > self._max_bytes or reply.finish_reason == "length":
            return
        with self._lock:
            self._drop(key)
            self._kept[key] = (self._clock() + self._ttl_s, size, reply)
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

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
