"""Finds secrets by what stands around them: "my password is X", "api key: X", "use X as PIN".

A secret has no shape of its own, so each pattern proposes a value and `looks_secret` or the frame
("my ...", a colon) decides. Every repetition in a pattern is bounded, so the time is linear.
"""

import re
from collections.abc import Iterator

from tee_sim.guard.frames import HANGUL
from tee_sim.guard.rules import load, patterns, search, value_of
from tee_sim.guard.words import entries

_RULES = load("stated_secrets")
_STATED, _CHANGED, _USED_AS, _REVERSED, _ADJACENT, _KOREAN, _KOREAN_ENDING, _NOT_LITERAL = patterns(
    _RULES, "stated changed used_as reversed adjacent korean korean_ending not_literal"
)
_DESCRIBING_SUFFIX, _NEVER_SUFFIX, _DOTTED_NAME, _CLAUSE_END = patterns(
    _RULES, "describing_suffix never_suffix dotted_name clause_end"
)
_PIN_NAME, _PASSPHRASE_NAME, _PHRASE = patterns(_RULES, "pin_name passphrase_name phrase")
_TRAILING = ".,;:!?)]}>\u2026\"'`\u201d\u2019\u00bb\u300d"
# Words that describe a secret rather than being one: "my password is weak", "token: string"
_DESCRIPTIONS = frozenset(entries("descriptions"))
_GRAMMAR = frozenset(entries("secret_grammar"))
_MIN_TOKEN_DIGITS = 6


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open range of each secret value, never of the words around it.

    Args:
        text: any string.
    """
    named = any(search(_RULES["name"], text))
    for pattern in (_STATED, _CHANGED, _USED_AS, _REVERSED, _ADJACENT) if named else ():
        for match in _each(pattern, text):
            reverse = pattern in (_USED_AS, _REVERSED)
            stated = pattern is not _ADJACENT
            found = _stated_value(match, text, reverse) if stated else _adjacent_value(match)
            if found is not None:
                yield found[0], _after_exclamation(text, found[1])
    for match in search(_RULES["shown"], text):
        start, _ = value_of(match)
        value = match["value"].rstrip(_TRAILING)
        if looks_secret(value) or value.replace("-", "").replace(" ", "").isdecimal():
            yield start, start + len(value)
    for match in _each(_KOREAN, text) if HANGUL.search(text) else ():
        start, value = _value_of(match)
        value = _KOREAN_ENDING.sub("", value)
        if looks_secret(value) or (value.isdecimal() and len(value) >= 4):
            yield start, start + len(value)


def _after_exclamation(text: str, end: int) -> int:
    """Take exclamation marks into the value: they often end a password, and masking them is free.

    They are left out while the value is judged, since "my password is weak!" states none.
    """
    while text.startswith("!", end):
        end += 1
    return end


def looks_secret(value: str) -> bool:
    """Whether a value has the look of a password or key: a digit among letters, or odd symbols."""
    if len(value) < 4 or _NOT_LITERAL.match(value):
        return False
    has_digit = any(c.isdecimal() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_symbol = any(c in "!@#$%^&*_+=~|?/" for c in value)
    return (has_digit and (has_letter or has_symbol)) or (has_symbol and has_letter)


def _each(pattern: re.Pattern[str], text: str) -> Iterator["re.Match[str]"]:
    """Like finditer, but the next search starts at the proposed value.

    A refused proposal ("my password: the password is X") must not hide one that begins inside it.
    """
    match = pattern.search(text)
    while match is not None:
        yield match
        start, _ = _value_of(match)
        match = pattern.search(text, max(start, match.start() + 1))


def _value_of(match: "re.Match[str]") -> tuple[int, str]:
    """Return where the proposed value starts and the value without closing punctuation."""
    if match["quoted"] is not None:
        return match.start("quoted"), match["quoted"]
    return match.start("value"), match["value"].rstrip(_TRAILING) or match["value"]


def _stated_value(match: "re.Match[str]", text: str, reverse: bool) -> tuple[int, int] | None:
    """Judge "NAME is VALUE" and its inversions."""
    start, value = _value_of(match)
    span = start, start + len(value)
    if match["quoted"] is not None:
        return span if _quoted_secret(value) else None
    name = match["strict"] or ""
    if _PASSPHRASE_NAME.search(name):
        phrase = _PHRASE.match(text, start)
        if phrase is not None and _GRAMMAR.isdisjoint(re.split(r"[ -]", phrase[0].lower())):
            return phrase.span()
    if _NOT_LITERAL.match(value) or value.lower() in _DESCRIPTIONS:
        return None
    if _PIN_NAME.match(name):
        return span if _is_pin(value) else None
    if looks_secret(value):
        return span
    if value.isdecimal():
        return span if len(value) >= (4 if name else _MIN_TOKEN_DIGITS) else None
    if not name or len(value) < 4 or _DOTTED_NAME.match(value):
        return None
    return span if _plain_word(match, text, span, reverse=reverse) else None


def _plain_word(match: "re.Match[str]", text: str, span: tuple[int, int], *, reverse: bool) -> bool:
    """Judge a value without digits or symbols by its frame, as in "my password is hunter"."""
    word = text[span[0] : span[1]].lower()
    if _NEVER_SUFFIX.search(word):
        return False
    if reverse:
        return match.re is _USED_AS or (
            len(word) >= 6 and _CLAUSE_END.match(text, match.end()) is not None
        )
    owner = (match.groupdict().get("owner") or "the").split(maxsplit=1)[0].lower()
    personal = match.re is _CHANGED or owner != "the"
    if not personal and _DESCRIBING_SUFFIX.search(word):
        return False
    return _CLAUSE_END.match(text, span[1]) is not None


def _adjacent_value(match: "re.Match[str]") -> tuple[int, int] | None:
    """Judge "NAME VALUE" without a link."""
    start, value = _value_of(match)
    span = start, start + len(value)
    name = match["strict"] or ""
    if match["quoted"] is not None:
        return span if looks_secret(value) else None
    if _PIN_NAME.match(name):
        named = bool(match["owner"]) or name.isupper() or len(name) > 3 or name[0] in "cC"
        return span if named and _is_pin(value) else None
    shortest = 4 if match["strict"] is not None else 8
    digits = sum(c.isdecimal() for c in value)
    return span if len(value) >= shortest and digits and looks_secret(value) else None


def _quoted_secret(value: str) -> bool:
    """Judge a quoted value: anything but a description or a placeholder."""
    return not _NOT_LITERAL.match(value) and value.lower() not in _DESCRIPTIONS and len(value) >= 3


def _is_pin(value: str) -> bool:
    compact = value.replace("-", "").replace(" ", "")
    return compact.isdecimal() and 3 <= len(compact) <= 12
