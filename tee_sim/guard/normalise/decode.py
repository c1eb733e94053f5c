"""Decoding of encoded runs inside a text: URL, HTML and quoted-printable escapes, base64, hex.

A decoded run replaces its code in a view, where the words around it ("my password is ...") still
stand; a hit on any of it covers all of its code. What does not decode to readable text stays.
"""

import binascii
import re
from collections.abc import Callable, Iterator

from tee_sim.guard.normalise.view import Edit

_ENTITIES = {
    "amp": "&",
    "lt": "<",
    "gt": ">",
    "quot": '"',
    "apos": "'",
    "nbsp": " ",
    "commat": "@",
    "period": ".",
    "lowbar": "_",
    "hyphen": "-",
    "dash": "-",
    "ndash": "-",
    "sol": "/",
    "colon": ":",
    "num": "#",
    "plus": "+",
    "lpar": "(",
    "rpar": ")",
    "zwnj": "",
    "shy": "",
}
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#[xX]([0-9A-Fa-f]{1,6})|([a-z]{2,8}));")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")
_QUOTED = re.compile(
    r"(?<!=[0-9A-F]{2})(?:=\r?\n|=[2-7C-F][0-9A-F](?:=[2-9A-F][0-9A-F])*(?=[\w.@-]))"
)
# Runs of base64's letters; base32 is a part of them. Long ones may be wrapped as mail is.
_BASE64 = re.compile(
    r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{8,}(?:(?<="
    r"[A-Za-z0-9+/]{40})\r?\n[A-Za-z0-9+/]{4,})*={0,6}"
)
# Words have no digits, no capital after a small letter and no padding; code nearly always has
_CODE_LIKE = re.compile(r"\d|[a-z][A-Z]|=$|[A-Z]{16}")
_HEX = re.compile(
    r"(?<![0-9A-Za-z])(?:0[xX])?(?:[0-9A-Fa-f]{2}(?:[ :-]|, ?)?(?:0[xX])?){3,}[0-9A-Fa-f]{2}"
    r"(?![0-9A-Za-z])"
)
_BINARY = re.compile(r"(?<!\d)(?:[01]{8}\s?){3,}[01]{8}(?!\d)")
_BASE32_DIGITS = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789abcdefghijklmnopqrstuv"
)
_NUMBER = re.compile(r"[\d .+()-]+")
_MIN_DECODED = 4
_ROT13 = {ord(first) + i: ord(first) + (i + 13) % 26 for first in ("a", "A") for i in range(26)}
# Common words of a text about oneself, in ROT13 and backwards: two of them give the code away
_ROT13_WORDS = re.compile(
    r"\b(?:zl|anzr|vf|gur|naq|cnffjbeq|rznvy|cubar|ahzore|pneq|nqqerff|yvir|pnyy)\b"
    r"|@[\w.]{1,64}\.(?:pbz|arg|bet)\b",
    re.IGNORECASE,
)
_BACKWARD_WORDS = re.compile(
    r"\b(?:ym|eman|si|eht|dna|drowssap|liame|enohp|rebmun|drac|sserdda|evil|llac)\b"
    r"|\b(?:moc|ten|gro)\.\w",
    re.IGNORECASE,
)
_BACKWARD_ADDRESS = re.compile(r"\b(?:moc|ten|gro|ude|vog|ku|ed|rk)\.[\w.-]{1,64}@\w")
_ROT13_ADDRESS = re.compile(r"@[\w.-]{1,64}\.(?:pbz|arg|bet|rqh|tbi)\b")


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
    return _ROT13_ADDRESS.search(text) is not None or _twice(_ROT13_WORDS, text)


def looks_backward(text: str) -> bool:
    """Whether a text holds words written backwards."""
    return _BACKWARD_ADDRESS.search(text) is not None or _twice(_BACKWARD_WORDS, text)


def rot13_table() -> dict[int, int]:
    """Return the exchange of letters, for `View.translated`."""
    return _ROT13


def _twice(words: re.Pattern[str], text: str) -> bool:
    seen = set()
    for match in words.finditer(text):
        seen.add(match.group().lower())
        if len(seen) == 2:
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
        return _ENTITIES.get(name)
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
    digits = re.sub(r"0[xX]|[^0-9A-Fa-f]", "", match.group())
    if len(digits) % 2:
        return None
    text = _readable(bytes.fromhex(digits), _MIN_DECODED)
    # A number may happen to read as hexadecimal: then only a number counts as its meaning
    return None if text is None or (digits.isdecimal() and not _NUMBER.fullmatch(text)) else text


def _from_binary(match: "re.Match[str]") -> str | None:
    bits = "".join(match.group().split())
    return _readable(int(bits, 2).to_bytes(len(bits) // 8, "big"), _MIN_DECODED)
