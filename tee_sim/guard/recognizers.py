"""The table of recognisers: one row per entity, with its kind, severity, pattern and validator.

Each row scans the whole text once. Patterns have bounded repetitions only, and look-behinds keep a
long run from being entered at every position, so the time is linear in the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tee_sim.guard.numbers import (
    digits_of,
    find_cards,
    is_international,
    is_korean,
    is_nanp,
    is_ssn,
)
from tee_sim.guard.stated_secrets import find_secrets

Ranges = Iterable[tuple[int, int]]

_CONTEXT_CHARS = 48
_SSN_CONTEXT = re.compile(r"\bssn\b|social[ -]?sec|사회보장", re.IGNORECASE)
_PHONE_CONTEXT = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|call|text|sms|whatsapp|fax|reach|ring|dial)\b|전화|연락|휴대폰",
    re.IGNORECASE,
)
# Boundaries are ASCII, so that a number may touch Korean or Japanese particles
_START = r"(?<![A-Za-z_\d])(?<!\d[.,-])"
_STOP = r"(?![A-Za-z_\d])(?![.,-]\d)"
_CARD = re.compile(r"(?<![A-Za-z_\d])(?<!\d[ .,-])\d(?:[ -]?\d){13,}" + _STOP)
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
_EMAIL = re.compile(
    r"(?<![\w%+-])[\w%+-](?:[\w%+-]|\.(?!\.)){0,254}@(?:[\w-]{1,63}\.){1,8}"
    r"(?P<tld>[A-Za-z]{2,24}(?![A-Za-z\d])|[^\W\d_]{2,24})(?!@)"
)
_FILE_SUFFIXES = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "git", "py", "js", "css"})
_SERVICE_ACCOUNTS = ("git@github.", "git@gitlab.", "git@bitbucket.")


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        for start, end in find_cards(match.group()):
            yield match.start() + start, match.start() + end


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        if not is_ssn(digits_of(match.group())):
            continue
        if match[1] == "-" or _near(_SSN_CONTEXT, text, match.start()):
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
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
        if _near(_PHONE_CONTEXT, text, match.start()) and (
            len(digits) == 7 or is_nanp(digits) or is_korean(digits)
        ):
            yield match.span()


def _international_end(candidate: str) -> int | None:
    """Return where the number ends: the longest stretch of whole digit groups that is valid."""
    for match in reversed(list(re.finditer(r"\d+", candidate))):
        if is_international(digits_of(candidate[: match.end()]).removeprefix("00")):
            return match.end()
    return None


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        address = match.group().lower()
        if match["tld"].lower() in _FILE_SUFFIXES or address.startswith(_SERVICE_ACCOUNTS):
            continue
        yield match.span()


def _near(context: re.Pattern[str], text: str, position: int) -> bool:
    return context.search(text, max(0, position - _CONTEXT_CHARS), position) is not None


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One row of the table.

    Args:
        kind: entity kind, one of `scan_result.ENTITY_KINDS`.
        severity: risk of one disclosed value, in [0, 1]; enters the score by noisy-or.
        floor: least score of a text that holds a value (near 1 for checksum-valid identifiers).
        find: yields the half-open ranges of validated values.
    """

    kind: str
    severity: float
    floor: float
    find: Callable[[str], Ranges]


RECOGNIZERS: tuple[Recognizer, ...] = (
    Recognizer("SECRET", severity=0.75, floor=0.0, find=find_secrets),
    Recognizer("PAYMENT_CARD", severity=0.98, floor=0.98, find=_cards),
    Recognizer("US_SSN", severity=0.95, floor=0.95, find=_ssns),
    Recognizer("PHONE", severity=0.65, floor=0.0, find=_phones),
    Recognizer("EMAIL", severity=0.6, floor=0.0, find=_emails),
)
