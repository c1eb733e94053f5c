"""Made-up identifiers in the formats of their issuers, with right check digits.

Every function takes the generator that decides all of it, and none of the values is anyone's.
"""

import random
import string
from collections.abc import Callable, Sequence

from ptmo_secure.privacy.synth import checksums

# (prefixes, length): issuers' ranges of ISO/IEC 7812
_ISSUERS = (
    (("4",), 16),
    (("51", "52", "53", "54", "55", "2221", "2450", "2719"), 16),
    (("34", "37"), 15),
    (("6011", "65", "644"), 16),
    (("3528", "3561"), 16),
    (("300", "305", "36", "38"), 14),
)
# Valid, and seldom seen: long Visa, old JCB, short Maestro
_RARE_ISSUERS = ((("4",), 19), (("2131", "1800"), 15), (("5018", "5038", "6304"), 12))
_RARE_SHARE = 0.08
# country: (letters of the bank, digits of the account), as the IBAN registry gives them
_IBAN_FORMS = {
    **{"GB": (4, 14), "DE": (0, 18), "FR": (0, 23), "ES": (0, 20), "NL": (4, 10), "BE": (0, 12)},
    **{"AT": (0, 16), "PT": (0, 21), "PL": (0, 24), "SE": (0, 20), "IE": (4, 14), "DK": (0, 14)},
    **{"FI": (0, 14), "NO": (0, 11), "CZ": (0, 20), "RO": (4, 16), "LV": (4, 13)},
}
_PLATE_STATES = ("CA", "NY", "TX", "FL", "IL", "WA", "OH")


def digits(rng: random.Random, count: int, first: str = string.digits) -> str:
    """`count` digits, the first of them out of `first`."""
    rest = "".join(rng.choices(string.digits, k=count - 1))
    return rng.choice(first) + rest


def letters(rng: random.Random, count: int) -> str:
    """`count` capital letters without I and O."""
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=count))


def grouped(value: str, sizes: Sequence[int], separator: str) -> str:
    """Cut `value` into groups; the last size repeats."""
    groups, at, index = [], 0, 0
    while at < len(value):
        size = sizes[min(index, len(sizes) - 1)]
        groups.append(value[at : at + size])
        at, index = at + size, index + 1
    return separator.join(groups)


def drawn(rng: random.Random, make: Callable[[str], str | None], count: int, first: str) -> str:
    """Draw payloads of `count` digits until one has a check digit; return both together."""
    while True:
        payload = digits(rng, count, first)
        check = make(payload)
        if check is not None:
            return payload + check


def payment_card(rng: random.Random) -> str:
    """A card number, valid by Luhn, in one of the ways in which people write it."""
    prefixes, length = rng.choice(_RARE_ISSUERS if rng.random() < _RARE_SHARE else _ISSUERS)
    prefix = rng.choice(prefixes)
    payload = prefix + "".join(rng.choices(string.digits, k=length - 1 - len(prefix)))
    number = payload + checksums.luhn(payload)
    sizes = {15: (4, 6, 5), 14: (4, 6, 4)}.get(length, (4,))
    return grouped(number, sizes, rng.choice((" ", "-"))) if rng.random() < 0.5 else number


def iban(rng: random.Random) -> str:
    """An IBAN with right check digits."""
    country = rng.choice(sorted(_IBAN_FORMS))
    bank, count = _IBAN_FORMS[country]
    account = letters(rng, bank) + digits(rng, count)
    number = country + checksums.mod97_iban(country, account) + account
    style = rng.random()
    if style < 0.35:
        return grouped(number, (4,), " ")
    return number.lower() if style > 0.92 else number


def us_ssn(rng: random.Random) -> str:
    """A social security number that the rules of 2011 allow."""
    area = rng.choice([*range(1, 666), *range(667, 900)])
    parts = (f"{area:03d}", f"{rng.randint(1, 99):02d}", f"{rng.randint(1, 9999):04d}")
    return rng.choice(("-", "-", "-", " ", "")).join(parts)


def rrn(rng: random.Random) -> str:
    """A Korean resident registration number with the check digit of those before October 2020."""
    year, month, day = rng.randint(1935, 2019), rng.randint(1, 12), rng.randint(1, 28)
    century = "12" if year < 2000 else "34"
    payload = f"{year % 100:02d}{month:02d}{day:02d}{rng.choice(century)}{digits(rng, 5)}"
    number = payload + checksums.rrn(payload)
    return number if rng.random() < 0.15 else f"{number[:6]}-{number[6:]}"


def nino(rng: random.Random) -> str:
    """A UK national insurance number (HMRC's allowed letters)."""
    first, second = rng.choice("ABCEGHJKLMNPRSTWXYZ"), rng.choice("ABCEGHJKLMNPRSTWXYZ")
    if first + second in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"):
        first = "A"
    number = f"{first}{second}{digits(rng, 6)}{rng.choice('ABCD')}"
    return grouped(number, (2, 2), " ") if rng.random() < 0.5 else number


def nhs_number(rng: random.Random) -> str:
    """An NHS number (mod 11)."""
    number = drawn(rng, checksums.nhs, 9, "4679")
    return grouped(number, (3, 3, 4), rng.choice((" ", "", "-")))


def sin(rng: random.Random) -> str:
    """A Canadian social insurance number (Luhn)."""
    number = drawn(rng, checksums.luhn, 8, "1234567")
    return grouped(number, (3,), rng.choice((" ", "-", "")))


def aadhaar(rng: random.Random) -> str:
    """An Indian Aadhaar number (Verhoeff)."""
    number = drawn(rng, checksums.verhoeff, 11, "23456789")
    return grouped(number, (4,), rng.choice((" ", "-", "")))


def cpf(rng: random.Random) -> str:
    """A Brazilian CPF."""
    number = drawn(rng, checksums.cpf, 9, string.digits)
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def dni(rng: random.Random) -> str:
    """A Spanish DNI."""
    number = rng.randint(10_000_000, 79_999_999)
    return f"{number}{rng.choice(('', '-'))}{checksums.dni(number)}"


def pesel(rng: random.Random) -> str:
    """A Polish PESEL."""
    birth = f"{rng.randint(40, 99):02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    payload = birth + digits(rng, 4)
    return payload + checksums.pesel(payload)


def bsn(rng: random.Random) -> str:
    """A Dutch citizen service number."""
    return drawn(rng, checksums.bsn, 8, "12345678")


def hetu(rng: random.Random) -> str:
    """A Finnish personal identity code."""
    birth = f"{rng.randint(1, 28):02d}{rng.randint(1, 12):02d}{rng.randint(40, 99):02d}"
    serial = f"{rng.randint(2, 899):03d}"
    return f"{birth}-{serial}{checksums.hetu(birth + serial)}"


def nir(rng: random.Random) -> str:
    """A French social security number."""
    payload = (
        f"{rng.choice('12')}{rng.randint(40, 99):02d}{rng.randint(1, 12):02d}"
        f"{rng.randint(1, 95):02d}{digits(rng, 6)}"
    )
    number = payload + checksums.nir(payload)
    return grouped(number, (1, 2, 2, 2, 3, 3, 2), " ") if rng.random() < 0.6 else number


def chinese_id(rng: random.Random) -> str:
    """A Chinese resident identity number."""
    birth = f"{rng.randint(1950, 2004)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    payload = f"{rng.choice(('110105', '310104', '440305', '510107'))}{birth}{digits(rng, 3)}"
    return payload + checksums.chinese(payload)


def personnummer(rng: random.Random) -> str:
    """A Swedish personal number (Luhn over its last ten digits)."""
    birth = f"{rng.randint(45, 99):02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    payload = birth + digits(rng, 3)
    return f"{birth}-{payload[6:]}{checksums.luhn(payload)}"


def curp(rng: random.Random) -> str:
    """A Mexican CURP by its shape (its last character is free here)."""
    birth = f"{rng.randint(40, 99):02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    return f"{letters(rng, 4)}{birth}{rng.choice('HM')}DF{letters(rng, 3)}{digits(rng, 2)}"


def steuer_id(rng: random.Random) -> str:
    """A German tax identification number."""
    number = drawn(rng, checksums.steuer_id, 10, "123456789")
    return grouped(number, (2, 3), " ") if rng.random() < 0.5 else number


def tfn(rng: random.Random) -> str:
    """An Australian tax file number."""
    return grouped(drawn(rng, checksums.tfn, 8, "123456789"), (3,), rng.choice((" ", "")))


def ein(rng: random.Random) -> str:
    """A US employer identification number."""
    return f"{rng.choice(('12', '20', '36', '45', '58', '82', '94'))}-{digits(rng, 7)}"


def itin(rng: random.Random) -> str:
    """A US individual taxpayer number."""
    return f"9{digits(rng, 2)}-{rng.randint(70, 88)}-{digits(rng, 4)}"


def utr(rng: random.Random) -> str:
    """A UK unique taxpayer reference by its shape."""
    return digits(rng, 10, "123456789")


def vat(rng: random.Random) -> str:
    """A VAT number by its shape."""
    country, count = rng.choice((("GB", 9), ("DE", 9), ("FR", 11), ("IT", 11), ("BE", 10)))
    return f"{country}{digits(rng, count, '123456789')}"


def passport(rng: random.Random) -> str:
    """A passport number in the shape of one of several countries."""
    shapes = (
        lambda: digits(rng, 9, "123456789"),
        lambda: f"{letters(rng, 1)}{digits(rng, 8)}",
        lambda: f"{letters(rng, 2)}{digits(rng, 7)}",
        lambda: f"{digits(rng, 2)}{letters(rng, 2)}{digits(rng, 5)}",
        lambda: f"{rng.choice('CFGHJK')}{digits(rng, 2)}{letters(rng, 2)}{digits(rng, 4)}",
        lambda: f"M{digits(rng, 8)}",
    )
    return rng.choice(shapes)()


def driver_license(rng: random.Random) -> str:
    """A driving licence number in the shape of one of several issuers."""
    shapes = (
        lambda: f"{letters(rng, 1)}{digits(rng, 7)}",
        lambda: digits(rng, rng.choice((7, 8, 9)), "123456789"),
        lambda: f"{letters(rng, 1)}{digits(rng, 3)}-{digits(rng, 4)}-{digits(rng, 4)}",
        lambda: f"{letters(rng, 1)}{digits(rng, 12)}",
        lambda: f"{letters(rng, 5)}{digits(rng, 6)}{letters(rng, 2)}{digits(rng, 1)}AB",
        lambda: f"{rng.choice(_PLATE_STATES)}-{digits(rng, 4)}-{digits(rng, 2)}-{digits(rng, 4)}",
        lambda: f"{letters(rng, 1)}{digits(rng, 4)}-{digits(rng, 5)}-{digits(rng, 5)}",
        lambda: f"{digits(rng, 2)}-{digits(rng, 2)}-{digits(rng, 6)}-{digits(rng, 2)}",
    )
    return rng.choice(shapes)()


def bank_account(rng: random.Random) -> str:
    """An account number as banks of several countries write it."""
    shapes = (
        lambda: digits(rng, rng.randint(8, 12), "123456789"),
        lambda: f"{digits(rng, 2)}-{digits(rng, 2)}-{digits(rng, 2)} {digits(rng, 8)}",
        lambda: f"{digits(rng, 3)}-{digits(rng, 3)} {digits(rng, 8)}",
        lambda: f"{digits(rng, 4)} {digits(rng, 4)} {digits(rng, 2)}",
        lambda: f"{digits(rng, 3)}-{digits(rng, 2)}-{digits(rng, 6)}",
    )
    return rng.choice(shapes)()


def routing_number(rng: random.Random) -> str:
    """A US routing number with its check digit."""
    payload = (
        f"{rng.choice(('01', '02', '06', '07', '11', '12', '21', '26', '31'))}{digits(rng, 6)}"
    )
    return payload + checksums.aba(payload)


# What each is called in a sentence, beside what makes it
NATIONAL_IDS: dict[str, Callable[[random.Random], str]] = {
    "National Insurance number": nino,
    "NI number": nino,
    "NHS number": nhs_number,
    "SIN": sin,
    "social insurance number": sin,
    "Aadhaar": aadhaar,
    "Aadhaar number": aadhaar,
    "CPF": cpf,
    "DNI": dni,
    "PESEL": pesel,
    "BSN": bsn,
    "HETU": hetu,
    "INSEE number": nir,
    "resident ID number": chinese_id,
    "personnummer": personnummer,
    "CURP": curp,
    "national ID": dni,
    "ID card number": chinese_id,
}
TAX_IDS: dict[str, Callable[[random.Random], str]] = {
    "Steuer-ID": steuer_id,
    "tax file number": tfn,
    "TFN": tfn,
    "EIN": ein,
    "ITIN": itin,
    "UTR": utr,
    "VAT number": vat,
    "tax ID": ein,
    "taxpayer number": itin,
}
