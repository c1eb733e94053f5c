"""Ways to write a private value so that a guard overlooks it: each rewrites one span of a text.

text, span = OBFUSCATIONS["zero_width"](text, (start, end))
"""

import base64
import codecs
import re
import unicodedata
from collections.abc import Callable, Mapping
from urllib.parse import quote

Range = tuple[int, int]
Obfuscation = Callable[[str, Range], tuple[str, Range]]

_CYRILLIC = str.maketrans(
    "aeopcxyisjABEKMHOPCTX",
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456\u0455\u0458"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425",
)
_LEET = str.maketrans("aeiostAEIOST", "431057431057")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = frozenset("0123456789")
_ZERO_WIDTH = ("\u200b", "\u200c", "\u2060")
_MARKS = ("\u0301", "\u0323", "\u0336")


def _on_value(change: Callable[[str], str]) -> Obfuscation:
    """Make an obfuscation of a text out of one of a value."""

    def apply(text: str, span: Range) -> tuple[str, Range]:
        start, end = span
        value = change(text[start:end])
        return text[:start] + value + text[end:], (start, start + len(value))

    return apply


def _each(change: Callable[[str, int], str]) -> Callable[[str], str]:
    return lambda value: "".join(change(char, index) for index, char in enumerate(value))


def _zero_width(value: str) -> str:
    return _each(lambda char, index: char + _ZERO_WIDTH[index % 3])(value[:-1]) + value[-1:]


def _fullwidth(value: str) -> str:
    return _each(lambda char, _: chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char)(value)


def _math_bold(value: str) -> str:
    def bold(char: str, _: int) -> str:
        for first, last, base in (("A", "Z", 0x1D400), ("a", "z", 0x1D41A), ("0", "9", 0x1D7CE)):
            if first <= char <= last:
                return chr(base + ord(char) - ord(first))
        return char

    return _each(bold)(value)


def _spelled(value: str) -> str:
    """Digits, and the signs of an e-mail address, as words, the way they are read aloud."""
    address = "@" in value
    signs = {"@": "at", ".": "dot"} if address else {}
    parts = re.findall(r"[0-9]|[@.]|[^0-9@.]+", value)
    words = [_WORDS[int(p)] if p in _DIGITS else signs.get(p, p) for p in parts]
    if not address and any(part in _DIGITS for part in parts):
        words = [word for word in words if word.isalpha()]
        return " ".join(words)
    return " ".join(words) if address else value


def _spaced(value: str) -> str:
    return " ".join(value.replace(" ", ""))


def _newline_split(value: str) -> str:
    middle = len(value) // 2
    return f"{value[:middle]}\n{value[middle:]}"


def _dotted(value: str) -> str:
    """Dots between digits; `(at)` and `[dot]` in addresses."""
    if "@" in value:
        return value.replace("@", " (at) ").replace(".", " [dot] ")
    if any(char.isdigit() for char in value):
        return ".".join(char for char in value if char.isalnum())
    return value.replace(" ", ".")


def _combining(value: str) -> str:
    marked = _each(lambda char, index: char + _MARKS[index % 3] if char.isalnum() else char)(value)
    return unicodedata.normalize("NFC", marked)


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


OBFUSCATIONS: Mapping[str, Obfuscation] = {
    "zero_width": _on_value(_zero_width),
    "fullwidth": _on_value(_fullwidth),
    "cyrillic": _on_value(lambda value: value.translate(_CYRILLIC)),
    "math_bold": _on_value(_math_bold),
    "spelled_out": _on_value(_spelled),
    "spaced": _on_value(_spaced),
    "leet": _on_value(lambda value: value.translate(_LEET)),
    "base64": _on_value(_base64),
    "hex": _on_value(lambda value: value.encode().hex()),
    "rot13": _on_value(lambda value: codecs.encode(value, "rot13")),
    "url_encoded": _on_value(lambda value: quote(value, safe="").replace("-", "%2D")),
    "reversed": _on_value(lambda value: value[::-1]),
    "dotted": _on_value(_dotted),
    "newline_split": _on_value(_newline_split),
    "lower_case": _on_value(str.lower),
    "upper_case": _on_value(str.upper),
    "combining_marks": _on_value(_combining),
}
