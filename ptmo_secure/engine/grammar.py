"""Byte-level grammars that an answer can be held to: fixed choices, then a JSON value.

A grammar takes bytes one at a time, says which may come next, and knows the shortest way to its
end, so that an answer whose token limit is near can be closed in time.
"""

from collections.abc import Sequence
from typing import Protocol

_DEPTH = 16
_ESCAPED = b'"\\/bfnrt'
_DIGITS = b"0123456789"
_LITERALS = {0x74: b"rue", 0x66: b"alse", 0x6E: b"ull"}
_CLOSERS = {"{": b"}", "[": b"]"}
# First byte of a character of several bytes: how many follow, and the range of the second
# (Unicode 17, table 3-7).
_LEADS = {
    **dict.fromkeys(range(0xC2, 0xE0), (1, 0x80, 0xBF)),
    **dict.fromkeys(range(0xE1, 0xF0), (2, 0x80, 0xBF)),
    **dict.fromkeys(range(0xF1, 0xF4), (3, 0x80, 0xBF)),
    **{0xE0: (2, 0xA0, 0xBF), 0xED: (2, 0x80, 0x9F)},
    **{0xF0: (3, 0x90, 0xBF), 0xF4: (3, 0x80, 0x8F)},
}


class Grammar(Protocol):
    """What may come next."""

    @property
    def done(self) -> bool:
        """Whether it is complete: nothing may follow."""

    def step(self, byte: int) -> bool:
        """Take a byte; False, and unchanged, if it may not come next."""

    def closing(self) -> bytes:
        """The shortest way to the end."""

    def copy(self) -> "Grammar":
        """One that goes its own way from here."""


class Choice:
    """One of some texts, none of which is the beginning of another.

    Args:
        texts: at least one, none empty.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._left = tuple(texts)

    @property
    def done(self) -> bool:
        """Whether one of the texts is complete."""
        return b"" in self._left

    def step(self, byte: int) -> bool:
        """Take a byte that goes on with one of the texts."""
        left = tuple(text[1:] for text in self._left if text[:1] == bytes([byte]))
        if left:
            self._left = left
        return bool(left)

    def closing(self) -> bytes:
        """The shortest of the texts still possible."""
        return min(self._left, key=len)

    def copy(self) -> "Choice":
        """One that goes its own way."""
        return Choice(self._left)


class Chain:
    """Grammars one after the other."""

    def __init__(self, parts: Sequence[Grammar]) -> None:
        self._parts = [part for part in parts if not part.done]

    @property
    def done(self) -> bool:
        """Whether the last is complete."""
        return not self._parts

    def step(self, byte: int) -> bool:
        """Take a byte of the first that is not complete."""
        if not self._parts or not self._parts[0].step(byte):
            return False
        if self._parts[0].done:
            self._parts = self._parts[1:]
        return True

    def closing(self) -> bytes:
        """The shortest ends of all that are left."""
        return b"".join(part.closing() for part in self._parts)

    def copy(self) -> "Chain":
        """One that goes its own way."""
        return Chain([part.copy() for part in self._parts])


class JsonObject:
    """A JSON object (RFC 8259) in UTF-8, its blanks at most one after a colon or comma.

    Numbers have no exponent and strings no `\\u`, which a model needs for nothing; values nest at
    most 16 deep.
    """

    def __init__(self) -> None:
        self._stack = ""  # "{" and "[" that are open
        self._mode = "start"
        self._left = b""  # of a literal
        self._key = False  # whether the string is a key
        self._more, self._low, self._high = (
            0,
            0,
            0,
        )  # bytes still to come

    @property
    def done(self) -> bool:
        """Whether the object is closed."""
        return self._mode == "done"

    def copy(self) -> "JsonObject":
        """One that goes its own way."""
        other = JsonObject.__new__(JsonObject)
        other.__dict__.update(self.__dict__)
        return other

    def step(self, byte: int) -> bool:
        """Take a byte."""
        return bool(getattr(self, f"_in_{self._mode}")(byte))

    def _in_start(self, byte: int) -> bool:
        return byte == 0x7B and self._open(byte)

    def _in_done(self, byte: int) -> bool:
        return False

    def _in_value(self, byte: int) -> bool:
        if byte == 0x20 and not self._left:
            self._left = b" "  # one blank, not two
            return True
        return self._begin(byte)

    def _in_first(self, byte: int) -> bool:
        """Stand at the first element of an array, which may have none."""
        return self._shut(byte) if byte == 0x5D else self._begin(byte)

    def _begin(self, byte: int) -> bool:
        if byte in b"{[":
            return self._open(byte)
        if byte == 0x22:
            self._mode, self._key = "string", False
        elif byte in _LITERALS:
            self._mode, self._left = "literal", _LITERALS[byte]
        elif byte == 0x2D:
            self._mode = "minus"
        elif byte in _DIGITS:
            self._mode = "zero" if byte == 0x30 else "integer"
        else:
            return False
        return True

    def _open(self, byte: int) -> bool:
        if len(self._stack) >= _DEPTH:
            return False
        self._stack += chr(byte)
        self._mode, self._left = ("fields" if byte == 0x7B else "first"), b""
        return True

    def _in_fields(self, byte: int) -> bool:
        """Stand at the first key of an object, which may have none."""
        return self._shut(byte) if byte == 0x7D else self._in_name(byte)

    def _in_name(self, byte: int) -> bool:
        if byte == 0x20 and self._mode == "name" and not self._left:
            self._left = b" "
            return True
        if byte != 0x22:
            return False
        self._mode, self._key = "string", True
        return True

    def _in_string(self, byte: int) -> bool:
        if byte == 0x22:
            self._mode = "colon" if self._key else "after"
        elif byte == 0x5C:
            self._mode = "escape"
        elif byte in _LEADS:
            self._mode = "character"
            self._more, self._low, self._high = _LEADS[byte]
        else:
            return 0x20 <= byte < 0x7F
        return True

    def _in_escape(self, byte: int) -> bool:
        if byte not in _ESCAPED:
            return False
        self._mode = "string"
        return True

    def _in_character(self, byte: int) -> bool:
        if not self._low <= byte <= self._high:
            return False
        self._more, self._low, self._high = self._more - 1, 0x80, 0xBF
        self._mode = "character" if self._more else "string"
        return True

    def _in_colon(self, byte: int) -> bool:
        if byte != 0x3A:
            return False
        self._mode, self._left = "value", b""
        return True

    def _in_literal(self, byte: int) -> bool:
        if byte != self._left[0]:
            return False
        self._left = self._left[1:]
        self._mode = "literal" if self._left else "after"
        return True

    def _in_minus(self, byte: int) -> bool:
        if byte not in _DIGITS:
            return False
        self._mode = "zero" if byte == 0x30 else "integer"
        return True

    def _in_zero(self, byte: int) -> bool:
        if byte == 0x2E:
            self._mode = "point"
            return True
        return self._in_after(byte)

    def _in_integer(self, byte: int) -> bool:
        return byte in _DIGITS or self._in_zero(byte)

    def _in_point(self, byte: int) -> bool:
        self._mode = "fraction" if byte in _DIGITS else self._mode
        return byte in _DIGITS

    def _in_fraction(self, byte: int) -> bool:
        return byte in _DIGITS or self._in_after(byte)

    def _in_after(self, byte: int) -> bool:
        """Stand behind a value: a comma, or the end of what holds it."""
        if byte == 0x2C:
            self._mode = "name" if self._stack[-1] == "{" else "value"
            self._left = b""
            return True
        return self._shut(byte)

    def _shut(self, byte: int) -> bool:
        if bytes([byte]) != _CLOSERS[self._stack[-1]]:
            return False
        self._stack = self._stack[:-1]
        self._mode = "after" if self._stack else "done"
        return True

    def closing(self) -> bytes:
        """The shortest way to the end."""
        ends = b"".join(_CLOSERS[part] for part in reversed(self._stack))
        if self._mode in ("string", "escape", "character"):
            rest = bytes([self._low, *[0x80] * (self._more - 1)]) if self._more else b""
            rest = b"n" if self._mode == "escape" else rest
            return rest + (b'":0' if self._key else b'"') + ends
        return {
            "start": b"{}",
            "value": b"0",
            "name": b'"":0',
            "colon": b":0",
            "literal": self._left,
            "minus": b"0",
            "point": b"0",
        }.get(self._mode, b"") + ends
