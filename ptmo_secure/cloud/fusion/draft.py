"""A cloud's path: tokens it would write next, with what it held likely at each of them.

The path arrives piece by piece from another thread. The answer being decoded follows it, leaves it,
or stands inside one of its tokens; `Draft.at` says which, comparing bytes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ptmo_secure.cloud.fusion.align import is_sound
from ptmo_secure.cloud.types import Position, TokenLogprob

MAX_PATH_BYTES = 1 << 14


class Place(Enum):
    """Where an answer stands on a cloud's path."""

    AT = "at"
    """A token of the path begins here."""

    INSIDE = "inside"
    """Within a token of the path: the two tokenisations do not line up here."""

    PENDING = "pending"
    """At the end of what has arrived; more may come."""

    OVER = "over"
    """At the end of the path, which is complete."""

    STOPPED = "stopped"
    """At the end of the path, where the cloud would end its answer."""

    LEFT = "left"
    """The answer and the path differ, or the answer is past the path's end."""


@dataclass(frozen=True, slots=True)
class Found:
    """A place, and with AT what the cloud held likely there."""

    place: Place
    tokens: tuple[TokenLogprob, ...] = ()


class Draft:
    """One request's path. Thread-safe: one thread extends it, another reads it.

    Args:
        anchor: bytes of the answer that the path goes on from.
        max_positions: tokens that were asked for; a server's further ones are dropped.

    Attributes:
        changed: notified whenever something arrives; hold it to wait.
        failure: code of why it broke off, None while it has not. What came before stays valid.

    Security: what arrives is a stranger's: sizes and probabilities are checked, and the path ends
    before the first position that cannot be true.
    """

    def __init__(self, anchor: int, max_positions: int) -> None:
        self.anchor = anchor
        self.changed = threading.Condition()
        self.failure: str | None = None
        self._cancelled = False
        self._cut: Callable[[], None] | None = None
        self._path = bytearray()
        self._tops: dict[int, tuple[TokenLogprob, ...]] = {}  # by the offset where they begin
        self._left = max_positions
        self._finish: str | None = None

    def extend(self, positions: tuple[Position, ...]) -> bool:
        """Take what has arrived; return whether more is wanted."""
        with self.changed:
            for position in positions:
                if self._finish is not None or self._left == 0:
                    break
                tokens = position.top or (position.chosen,)
                if not is_sound(tokens) or len(self._path) > MAX_PATH_BYTES:
                    self._end("malformed")
                    break
                self._left -= 1
                if position.chosen.bytes:
                    self._tops[len(self._path)] = tokens
                    self._path += position.chosen.bytes
                else:  # the end of the answer, as some servers report it
                    self._tops.setdefault(len(self._path), tokens)
            self.changed.notify_all()
            return self._finish is None and not self._cancelled

    def finish(self, reason: str, *, said: bool = False) -> None:
        """Note that the path is complete.

        Args:
            reason: "stop" says that the cloud would end its answer there.
            said: whether there was any text: without log-probabilities it is of no use.
        """
        with self.changed:
            empty = not self._tops and (said or reason != "stop")
            self._end(*(("no_logprobs", "failed") if empty else (None, reason)))

    def fail(self, code: str) -> None:
        """Note that nothing more will come, and why."""
        with self.changed:
            self._end(code)

    def on_cancel(self, cut: Callable[[], None] | None) -> None:
        """Say how the request is ended from another thread; None: only when more of it arrives."""
        with self.changed:
            self._cut = cut
            cancelled = self._cancelled
        if cancelled and cut is not None:
            cut()

    def cancel(self) -> None:
        """Say that nobody reads on; the request is ended."""
        with self.changed:
            self._cancelled = True
            cut = self._cut if self._finish is None else None
        if cut is not None:
            cut()

    @property
    def open(self) -> bool:
        """Whether more may arrive."""
        return self._finish is None

    def at(self, answer: bytes | bytearray) -> Found:
        """Say where an answer stands, given all of its bytes."""
        with self.changed:
            since = answer[self.anchor :]
            shared = min(len(since), len(self._path))
            if since[:shared] != self._path[:shared]:
                return Found(Place.LEFT)
            tokens = self._tops.get(len(since))
            if tokens is not None:
                return Found(Place.AT, tokens)
            if len(since) < len(self._path):
                return Found(Place.INSIDE)
            if self._finish is None:
                return Found(Place.PENDING)
            if len(since) > len(self._path):
                return Found(Place.LEFT)
            return Found(Place.STOPPED if self._finish == "stop" else Place.OVER)

    def _end(self, code: str | None, reason: str = "failed") -> None:
        if self._finish is None:
            self._finish, self.failure = reason, code
        self.changed.notify_all()
