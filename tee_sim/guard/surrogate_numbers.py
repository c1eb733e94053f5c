"""Surrogates of numbers: same shape, right check digits, reserved ranges where there are any."""

import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta

from tee_sim.guard.checksums import is_date, weighted
from tee_sim.guard.numbers import digits_of, luhn_valid
from tee_sim.guard.words import pairs

_UPPER, _LOWER = "ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijkmnpqrstuvwxyz"
_ALIKE = (str.isdecimal, "0123456789"), (str.isupper, _UPPER), (str.islower, _LOWER)
_MOST_DRAWN = 80  # characters that 64 bytes suffice for
_DATE = re.compile(r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})")
_CENTURY = {"1": 1900, "2": 1900, "3": 2000, "4": 2000, "5": 1900, "6": 1900, "7": 2000, "8": 2000}


class Digits:
    """Numbers drawn from the bytes of a PRF.

    Args:
        drawn: 64 bytes, enough for some hundred decimal digits.
    """

    def __init__(self, drawn: bytes) -> None:
        self._number = int.from_bytes(drawn, "little")

    def below(self, limit: int) -> int:
        """Return a number, 0 to `limit` - 1."""
        self._number, rest = divmod(self._number, limit)
        return rest

    def decimals(self, count: int) -> str:
        """Return so many decimal digits."""
        return "".join(str(self.below(10)) for _ in range(count))

    def pick(self, choices: Sequence[str]) -> str:
        """Return one of some strings."""
        return choices[self.below(len(choices))]


def same_shape(value: str, digits: Digits) -> str:
    """Return a value with other digits and letters at the same places."""
    if len(value) > _MOST_DRAWN:
        return ""
    return "".join(
        next((digits.pick(others) for alike, others in _ALIKE if alike(char)), char)
        for char in value
    )


def secret(value: str, digits: Digits) -> str:
    """Letters and digits alone, as many as the value has characters."""
    alphabet = _UPPER + _LOWER + "23456789"
    return "".join(digits.pick(alphabet) for _ in value) if len(value) <= _MOST_DRAWN else ""


def _laid_out(value: str, characters: str) -> str:
    """Return the layout of a value with other letters and digits; "" if it has not so many."""
    if sum(map(str.isalnum, value)) != len(characters):
        return ""
    left = iter(characters)
    return "".join(next(left) if char.isalnum() else char for char in value)


def card(value: str, digits: Digits) -> str:
    """A card number of a test range (Visa 400000, American Express 378282), valid by Luhn."""
    size = len(digits_of(value))
    prefix = "378282" if size == 15 else "400000"
    body = prefix + digits.decimals(size - len(prefix) - 1)
    check = next((d for d in "0123456789" if luhn_valid(body + d)), "")
    return _laid_out(value, body + check) if size > 10 else ""


def ssn(value: str, digits: Digits) -> str:
    """A US social security number of area 666, which is never given out."""
    return _laid_out(value, "666" + digits.decimals(6))


def phone(value: str, digits: Digits) -> str:
    """A number as long: 555-01xx (reserved) in North America, 01x-0000 in Korea, else drawn."""
    plain = digits_of(value)
    if len(plain) == 11 and plain.startswith("01"):
        return _laid_out(value, f"{plain[:3]}0000{digits.below(10_000):04d}")
    if len(plain) in (10, 11) and plain[-10] in "23456789":
        area = f"{2 + digits.below(8)}{digits.decimals(2)}"
        return _laid_out(value, f"{plain[:-10]}{area}55501{digits.below(100):02d}")
    return _laid_out(value, plain[:2] + digits.decimals(len(plain) - 2)) if len(plain) > 5 else ""


def iban(value: str, digits: Digits) -> str:
    """An IBAN of the same country and length, its check digits right (ISO 13616)."""
    plain = "".join(char for char in value.upper() if char.isalnum())
    body = same_shape(plain[4:], digits)
    number = "".join(str(int(char, 36)) for char in f"{body}{plain[:2]}00")
    return _laid_out(value, f"{plain[:2]}{98 - int(number) % 97:02d}{body}")


def korean_registration(value: str, digits: Digits) -> str:
    """A Korean registration number: another day of birth of the same century, its check right."""
    plain = digits_of(value)
    if len(plain) != 13 or plain[6] not in _CENTURY:
        return ""
    born = date(_CENTURY[plain[6]] + 18 * (_CENTURY[plain[6]] == 1900), 1, 1)
    born += timedelta(days=digits.below(80 * 365 if born.year < 2000 else 20 * 365))
    body = f"{born:%y%m%d}{plain[6]}" + digits.decimals(5)
    shift = 13 if plain[6] in "5678" else 11
    return _laid_out(value, f"{body}{(shift - weighted(body, '234567892345') % 11) % 10}")


def shifted_date(value: str, digits: Digits) -> str:
    """A date up to a year off, for dates of three numbers with a year of four digits."""
    match = _DATE.fullmatch(value)
    if match is None:
        return ""
    a, b, c = match[1], match[3], match[4]
    first = len(a) == 4
    day_first = not first and not is_date(int(c), int(a), int(b))
    year, month, number = (a, b, c) if first else (c, b, a) if day_first else (c, a, b)
    off = 1 + digits.below(365)
    try:
        day = date(int(year), int(month), int(number))
        day += timedelta(days=off if digits.below(2) else -off)
    except (ValueError, OverflowError):
        return ""
    middle = (day.day, day.month) if day_first else (day.month, day.day)
    parts = (day.year, day.month, day.day) if first else (*middle, day.year)
    widths = (len(a), len(b), len(c))
    return match[2].join(f"{part:0{width}d}" for part, width in zip(parts, widths, strict=True))


def ip_address(value: str, digits: Digits) -> str:
    """An address for documentation: RFC 5737, or RFC 3849 for version 6."""
    if ":" in value:
        return f"2001:db8::{digits.below(1 << 16):x}:{1 + digits.below((1 << 16) - 1):x}"
    net = digits.pick(["192.0.2", "198.51.100", "203.0.113"])
    return f"{net}.{1 + digits.below(254)}"


def mac_address(value: str, digits: Digits) -> str:
    """An address for documentation (RFC 7042): 00-00-5E-00-53-xx."""
    drawn = f"00005e0053{digits.below(256):02x}"
    return _laid_out(value, drawn.upper() if value.upper() == value else drawn)


def url(value: str, digits: Digits) -> str:
    """A web address at a reserved domain (RFC 2606)."""
    return f"https://example.com/{digits.below(1 << 40):010x}"


_MAKERS = (card, ssn, phone, iban, korean_registration, shifted_date, ip_address, mac_address, url)
# The functions above by the kinds that each makes
NUMBER_MAKERS: dict[str, Callable[[str, Digits], str]] = {
    kind: make
    for make in (*_MAKERS, secret, same_shape)
    for kind in pairs("number_makers")[make.__name__].split()
}
