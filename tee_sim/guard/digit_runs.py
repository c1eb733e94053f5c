"""Cards, US social security numbers and phones: digits in a known plan, validated."""

import re

from tee_sim.guard import numbers
from tee_sim.guard.frames import near
from tee_sim.guard.numbers import digits_of
from tee_sim.guard.rules import Ranges, load, patterns, search
from tee_sim.guard.stated_numbers import find_stated_phones

_RULES = load("digit_runs")
_SSN_CONTEXT, _PHONE_CONTEXT = patterns(_RULES, "ssn_context phone_context")
_MAX_CARD_CHARS = 2 * 19


def find_payment_cards(text: str) -> Ranges:
    """Yield card numbers: an issuer's prefix, one of its lengths, Luhn."""
    for match in search(_RULES["named_card"], text):
        digits = digits_of(match["value"])
        if 12 <= len(digits) <= 19 and numbers.luhn_valid(digits) and len(set(digits)) > 1:
            yield match.span("value")
    for match in search(_RULES["card"], text):
        found = list(numbers.find_cards(match.group()))
        yield from ((match.start() + start, match.start() + end) for start, end in found)
        if not found and len(match.group()) <= _MAX_CARD_CHARS:
            backward = match.group()[::-1]  # a disguise that changes nothing else
            if (0, len(backward)) in numbers.find_cards(backward):
                yield match.span()


def find_ssns(text: str) -> Ranges:
    """Yield social security numbers: with hyphens, or near words that say so."""
    for match in search(_RULES["ssn"], text):
        if not numbers.is_ssn(digits_of(match.group())):
            continue
        if match[1] == "-" or near(_SSN_CONTEXT, text, *match.span()):
            yield match.span()


def find_phones(text: str) -> Ranges:
    """Yield phone numbers: international, North American, Korean, or announced as a phone."""
    for match in search(_RULES["international_phone"], text):
        end = _international_end(match.group())
        if end is not None:
            yield match.start(), match.start() + end
    for match in search(_RULES["national_phone"], text):
        digits = digits_of(match.group())
        national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        if numbers.is_korean(digits) if digits[0] == "0" else numbers.is_nanp(national):
            yield match.span()
    for match in search(_RULES["bare_phone"], text):
        digits = digits_of(match.group())
        if near(_PHONE_CONTEXT, text, *match.span()) and (
            len(digits) == 7 or numbers.is_nanp(digits) or numbers.is_korean(digits)
        ):
            yield match.span()
    yield from find_stated_phones(text)


def _international_end(candidate: str) -> int | None:
    """Return where the number ends: the longest stretch of whole digit groups that is valid."""
    for match in reversed(list(re.finditer(r"\d+", candidate))):
        if numbers.is_international(digits_of(candidate[: match.end()]).removeprefix("00")):
            return match.end()
    return None
