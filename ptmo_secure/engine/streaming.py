"""Tokens to text pieces while an answer is being written.

A piece never splits a UTF-8 character and never holds any part of a stop string: bytes that may
still become a character, and text that may still become a stop string, are held back.
"""

import codecs
from collections.abc import Sequence

from ptmo_secure.errors import InputError

_MAX_STOPS = 64


class Utf8Stream:
    """Joins bytes to text; what can no longer become a character turns into U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """Take bytes, return the text that is complete."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Ends a text before the first stop string.

    Args:
        stops: non-empty strings; the one that begins first wins, of those the one that ends first.

    Raises:
        InputError: a stop string is empty or no string, or there are too many.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        if isinstance(stops, str):
            stops = (stops,)
        if len(stops) > _MAX_STOPS:
            raise InputError(f"{len(stops)} stop strings, more than {_MAX_STOPS}")
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise InputError(f"a stop string must be a non-empty string, not {stop!r}")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take text, return what is certain to stand before every stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        hits = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        keep = self._held_from(text)
        if hits and min(hits) <= keep:
            self.stopped = True
            self._held = ""
            return text[: min(hits)]
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """Return the text held back, now that no more will come."""
        held, self._held = self._held, ""
        hits = [index for stop in self._stops if (index := held.find(stop)) >= 0]
        if hits:
            self.stopped = True
            held = held[: min(hits)]
        return held

    def _held_from(self, text: str) -> int:
        """Return the first position from which the rest may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)


class TextStream:
    """Token bytes in, text pieces out, until a stop string or the end.

    Args:
        stops: see `StopMatcher`.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._utf8 = Utf8Stream()
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been met; nothing comes after it."""
        return self._matcher.stopped

    def push(self, data: bytes) -> str:
        """Take one token's bytes (`Tokenizer.token_bytes`), return the next piece or ""."""
        return self._matcher.push(self._utf8.push(data))

    def finish(self) -> str:
        """Return what was held back; call once, after the last token."""
        return self._matcher.push(self._utf8.finish()) + self._matcher.finish()
