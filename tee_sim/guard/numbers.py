"""Validators for identifiers made of digits: what turns a run of digits into a card or a phone."""

import re
from collections.abc import Iterator

from tee_sim.guard.rules import load, patterns

_ISSUED, _CALLING_CODE, _KOREAN, _SSN, _NANP = patterns(
    load("numbers"), "issued calling_code korean ssn nanp"
)
_ISSUER_DIGITS = frozenset("123456")
_MIN_CARD_DIGITS, _MAX_CARD_DIGITS = 14, 19


def digits_of(text: str) -> str:
    """Return the decimal digits of `text` as ASCII."""
    return "".join(str(int(c)) for c in text if c.isdecimal())


def luhn_valid(digits: str) -> bool:
    """Check the mod-10 digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """Whether digits have an issuer's prefix, one of its lengths and a valid check digit."""
    return _ISSUED.fullmatch(digits) is not None and len(set(digits)) > 1 and luhn_valid(digits)


def find_cards(run: str) -> Iterator[tuple[int, int]]:
    """Yield the card numbers in a run of digit groups with separators.

    The run may begin or end with other numbers (an expiry date, a security code), so every
    stretch of whole groups with 14 to 19 digits is tried, longest first. Linear in the groups: a
    stretch has at most 19 of them.

    Returns:
        Half-open ranges inside `run`, not overlapping.
    """
    groups = [match.span() for match in re.finditer(r"\d+", run)]
    digits = digits_of(run)
    before = [0]  # digits in front of each group
    for start, end in groups:
        before.append(before[-1] + end - start)
    first = 0
    while first < len(groups):
        last = _card_end(digits, before, first)
        if last is not None:
            yield groups[first][0], groups[last - 1][1]
        first = last or first + 1


def _card_end(digits: str, before: list[int], first: int) -> int | None:
    """Return the group after the longest card number that starts with group `first`."""
    if digits[before[first]] not in _ISSUER_DIGITS:
        return None
    last = first + 1
    while last < len(before) and before[last] - before[first] <= _MAX_CARD_DIGITS:
        last += 1
    for end in range(last - 1, first, -1):
        if before[end] - before[first] < _MIN_CARD_DIGITS:
            return None
        sizes = [before[i + 1] - before[i] for i in range(first, end)]
        if is_card(digits[before[first] : before[end]]) and _grouped_like_a_card(sizes):
            return end
    return None


def _grouped_like_a_card(sizes: list[int]) -> bool:
    """Whether digits are grouped by fours or more (the last may be shorter), pairs or singly.

    A list of small numbers with one check digit in ten right by chance is none of these.
    """
    return min(sizes[:-1], default=4) >= 4 or set(sizes) in ({1}, {2})


def is_ssn(digits: str) -> bool:
    """Whether nine digits can be a US social security number (SSA rules since 2011)."""
    return _SSN.fullmatch(digits) is not None


def is_nanp(digits: str) -> bool:
    """Whether ten digits follow the North American plan: NXX-NXX-XXXX, N in 2..9, no N11 area."""
    return _NANP.fullmatch(digits) is not None and len(set(digits)) > 2


def is_international(digits: str) -> bool:
    """Whether digits (without the plus) are an assigned country code and a plausible number."""
    code = _CALLING_CODE.match(digits)
    if code is None or not 8 <= len(digits) <= 15:
        return False
    number = digits[code.end() :]
    if code.group() == "1":
        return is_nanp(number)
    if code.group() in ("82", "44", "49", "33", "39", "81", "61"):
        number = number.removeprefix("0")  # written "+44 (0)20 ..."
    return len(number) >= 5 and number[0] != "0" and len(set(number)) > 1


def is_korean(digits: str) -> bool:
    """Whether digits are a Korean national number: 010 mobiles, 02 Seoul, 03x-06x and 070."""
    return _KOREAN.fullmatch(digits) is not None
