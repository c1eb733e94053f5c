"""Decoding of encoded runs inside a text: URL, HTML and quoted-printable escapes, base64, hex.

A decoded run replaces its code in a view, where the words around it ("my password is ...") still
stand; a hit on any of it covers all of its code. What does not decode to readable text stays.
"""

import binascii
import re
from collections.abc import Callable, Iterator
from html.entities import html5
from string import ascii_lowercase, ascii_uppercase, digits

from tee_sim.guard.normalise.view import Edit
from tee_sim.guard.rules import load, patterns, search

_RULES = load("decoding")
_PERCENT, _ENTITY, _ESCAPE, _QUOTED, _BASE64, _CODE_LIKE, _HEX, _BINARY, _NUMBER = patterns(
    _RULES, "percent entity escape quoted base64 code_like hex binary number"
)
_BASE32_DIGITS = str.maketrans(ascii_uppercase + "234567", digits + ascii_lowercase[:22])
_MIN_DECODED = 4
_ROT13 = {ord(first) + i: ord(first) + (i + 13) % 26 for first in ("a", "A") for i in range(26)}


def decode_edits(text: str) -> Iterator[Edit]:
    """Yield, in order, the edits that replace encoded runs by what they say.

    Args:
        text: any string; one pass undoes one layer of code.
    """
    found: list[Edit] = []
    if "%" in text:
        found += _each(_PERCENT, text, _from_percent)
    if "&" in text:
        found += _each(_ENTITY, text, _from_entity)
    if "\\" in text:
        found += _each(_ESCAPE, text, _from_escape)
    if "=" in text:
        found += _each(_QUOTED, text, _from_quoted)
    found += _each(_BASE64, text, _from_base64)
    found += _each(_HEX, text, _from_hex)
    found += _each(_BINARY, text, _from_binary)
    found.sort(key=lambda edit: (edit[0], -edit[1]))
    yield from found


def looks_rotated(text: str) -> bool:
    """Whether a text holds words in ROT13."""
    return _twice("rot13_address", text, 1) or _twice("rot13_words", text)


def looks_backward(text: str) -> bool:
    """Whether a text holds words written backwards."""
    return _twice("backward_address", text, 1) or _twice("backward_words", text)


def rot13_table() -> dict[int, int]:
    """Return the exchange of letters, for `View.translated`."""
    return _ROT13


def _twice(words: str, text: str, least: int = 2) -> bool:
    """Whether a text holds so many different ones of a group of words."""
    seen = set()
    for match in search(_RULES[words], text):
        seen.add(match.group().lower())
        if len(seen) == least:
            return True
    return False


def _each(
    pattern: re.Pattern[str], text: str, decode: "Callable[[re.Match[str]], str | None]"
) -> Iterator[Edit]:
    for match in pattern.finditer(text):
        decoded = decode(match)
        if decoded is not None:
            yield match.start(), match.end(), decoded


def _readable(data: bytes, least: int = 1) -> str | None:
    """Return bytes as text when they are UTF-8 without control characters."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printable = all(char.isprintable() or char in "\t\r\n" for char in text)
    return text if len(text) >= least and printable else None


def _from_percent(match: "re.Match[str]") -> str | None:
    return _readable(bytes.fromhex(match.group().replace("%", "")))


def _from_entity(match: "re.Match[str]") -> str | None:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return html5.get(f"{name};")
    return _character(int(decimal) if decimal else int(hexadecimal, 16))


def _from_escape(match: "re.Match[str]") -> str | None:
    return _character(int(match[1] or match[2], 16))


def _character(code: int) -> str | None:
    valid = 32 <= code < 0xD800 or 0xE000 <= code < 0x110000
    return chr(code) if valid else None


def _from_quoted(match: "re.Match[str]") -> str | None:
    code = match.group().replace("=", "").strip()
    return _readable(bytes.fromhex(code)) if code else ""


def _from_base64(match: "re.Match[str]") -> str | None:
    run = match.group()
    if not _CODE_LIKE.search(run):
        return None
    body = "".join(run.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        text = _readable(binascii.a2b_base64(body + "=" * (-len(body) % 4)), _MIN_DECODED)
    except binascii.Error:
        text = None
    return text if text is not None else _from_base32(body)


def _from_base32(body: str) -> str | None:
    """Decode RFC 4648 base32: five bits a letter, of A to Z and 2 to 7."""
    if len(body) < 16 or not re.fullmatch(r"[A-Z2-7]+", body):
        return None
    bits = int(body.translate(_BASE32_DIGITS), 32)
    spare = len(body) * 5 % 8
    return _readable((bits >> spare).to_bytes(len(body) * 5 // 8, "big"), _MIN_DECODED)


def _from_hex(match: "re.Match[str]") -> str | None:
    code = re.sub(r"0[xX]|[^0-9A-Fa-f]", "", match.group())
    if len(code) % 2:
        return None
    text = _readable(bytes.fromhex(code), _MIN_DECODED)
    # A number may happen to read as hexadecimal: then only a number counts as its meaning
    return None if text is None or (code.isdecimal() and not _NUMBER.fullmatch(text)) else text


def _from_binary(match: "re.Match[str]") -> str | None:
    bits = "".join(match.group().split())
    return _readable(int(bits, 2).to_bytes(len(bits) // 8, "big"), _MIN_DECODED)
