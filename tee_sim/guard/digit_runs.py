"""Cards, US social security numbers and phones: digits in a known plan, validated."""

import re
from collections.abc import Iterator

from tee_sim.guard.frames import near
from tee_sim.guard.numbers import (
    digits_of,
    find_cards,
    is_international,
    is_korean,
    is_nanp,
    is_ssn,
    luhn_valid,
)
from tee_sim.guard.stated_numbers import find_stated_phones

Ranges = Iterator[tuple[int, int]]

_SSN_CONTEXT = re.compile(r"\bssn\b|social[ -]?sec|사회보장", re.IGNORECASE)
_PHONE_CONTEXT = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|call|text|sms|whatsapp|fax|reach|ring"
    r"|dial)\b|전화|연락|휴대폰",
    re.IGNORECASE,
)
# Boundaries are ASCII, so that a number may touch Korean or Japanese particles
_START = r"(?<![A-Za-z_\d])(?<!\d[.,-])"
_STOP = r"(?![A-Za-z_\d])(?![.,-]\d)"
_CARD = re.compile(r"(?<![A-Za-z_\d])(?<!\d[ .,-])\d(?:[ -]?\d){13,}" + _STOP)
_MAX_CARD_CHARS = 2 * 19
_NAMED_CARD = re.compile(
    r"(?:\b(?:card|cc|visa|mastercard|maestro|amex)\b|카드)(?:[\s:#.,?]|\b(?:number|no"
    r"|num|nr|is|it['\u2019]s|ending|the|번호)\b|번호|는|은){0,8}"
    r"(?P<value>\d(?:[ -]?\d){11,18})" + _STOP,
    re.IGNORECASE,
)
_SSN = re.compile(_START + r"\d{3}([ -]?)\d{2}\1\d{4}" + _STOP)
_NATIONAL_PHONE = re.compile(
    r"(?<![A-Za-z_\d+])(?<!\d[.,/-])(?:"
    r"\(\d{3}\)[ -]?\d{3}[ .-]\d{4}"  # (212) 555-0123
    r"|(?:1[ .-])?\d{3}(?P<us>[ .-])\d{3}(?P=us)\d{4}"  # 212-555-0123, 1-212-555-0123
    r"|0\d{1,2}(?P<kr>[ .-])\d{3,4}(?P=kr)\d{4}"  # 010-1234-5678, 02-345-6789
    r"|\(0\d{1,2}\)[ -]?\d{3,4}[ -]\d{4}"
    r"|010\d{8})" + _STOP
)
_BARE_PHONE = re.compile(_START + r"(?:\d{10,11}|[2-9]\d{2}-\d{4})" + _STOP)
_INTERNATIONAL_PHONE = re.compile(
    r"(?<![A-Za-z_\d+])(?:\+\s?|00(?=[1-9]))\(?\d{1,15}\)?(?:[ .()/-]{0,3}\d{1,14}){0,9}"
)


def find_payment_cards(text: str) -> Ranges:
    """Yield card numbers: an issuer's prefix, one of its lengths, Luhn."""
    for match in _NAMED_CARD.finditer(text):
        digits = digits_of(match["value"])
        if 12 <= len(digits) <= 19 and luhn_valid(digits) and len(set(digits)) > 1:
            yield match.span("value")
    for match in _CARD.finditer(text):
        found = False
        for start, end in find_cards(match.group()):
            found = True
            yield match.start() + start, match.start() + end
        if not found and len(match.group()) <= _MAX_CARD_CHARS:
            backward = match.group()[::-1]  # a disguise that changes nothing else
            if (0, len(backward)) in find_cards(backward):
                yield match.span()


def find_ssns(text: str) -> Ranges:
    """Yield social security numbers: with hyphens, or near words that say so."""
    for match in _SSN.finditer(text):
        if not is_ssn(digits_of(match.group())):
            continue
        if match[1] == "-" or near(_SSN_CONTEXT, text, *match.span()):
            yield match.span()


def find_phones(text: str) -> Ranges:
    """Yield phone numbers: international, North American, Korean, or announced as a phone."""
    for match in _INTERNATIONAL_PHONE.finditer(text):
        end = _international_end(match.group())
        if end is not None:
            yield match.start(), match.start() + end
    for match in _NATIONAL_PHONE.finditer(text):
        digits = digits_of(match.group())
        national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        if is_korean(digits) if digits[0] == "0" else is_nanp(national):
            yield match.span()
    for match in _BARE_PHONE.finditer(text):
        digits = digits_of(match.group())
        if near(_PHONE_CONTEXT, text, *match.span()) and (
            len(digits) == 7 or is_nanp(digits) or is_korean(digits)
        ):
            yield match.span()
    yield from find_stated_phones(text)


def _international_end(candidate: str) -> int | None:
    """Return where the number ends: the longest stretch of whole digit groups that is valid."""
    for match in reversed(list(re.finditer(r"\d+", candidate))):
        if is_international(digits_of(candidate[: match.end()]).removeprefix("00")):
            return match.end()
    return None
