"""Check digits of identifiers: each function says whether a compact value is well formed.

Values come without separators, letters in capitals. One function per published algorithm.
"""

from collections.abc import Iterable
from datetime import date

from cryptography.hazmat.primitives.hashes import SHA256, Hash

from tee_sim.guard.numbers import luhn_valid
from tee_sim.guard.words import pairs

_IBAN_LENGTHS = pairs("iban_lengths")
_VERHOEFF_CYCLE = "1576283094"  # position i of the permutation is this one applied i times
_FISCAL_ODD = {char: int(value) for char, value in pairs("fiscal_code").items()}
_VIN_PLACES = "0123456789.ABCDEFGH..JKLMN.P.R..STUVWXYZ"  # a character counts its place mod 10
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32_CONSTANTS = (1, 0x2BC830A3)  # BIP 173, BIP 350


def weighted(digits: str, weights: Iterable[int | str]) -> int:
    """Return the sum of digits times weights, as far as there are weights."""
    return sum(int(d) * int(w) for d, w in zip(digits, weights, strict=False))


def varied(digits: str) -> bool:
    """Whether a number has three different digits: 111111111 passes many a check."""
    return len(set(digits)) > 2


def is_date(year: int, month: int, day: int) -> bool:
    """Whether a day exists in the calendar."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def is_short_date(digits: str) -> bool:
    """Whether YYMMDD is a day of this or the last century."""
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    return is_date(1900 + year, month, day) or is_date(2000 + year, month, day)


def is_iban(value: str) -> bool:
    """ISO 13616: the country's length, and mod 97 of the rearranged number is 1."""
    if _IBAN_LENGTHS.get(value[:2]) != str(len(value)) or not value.isalnum():
        return False
    return int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


def is_aadhaar(digits: str) -> bool:
    """India: 12 digits, the first 2 to 9, check digit after Verhoeff (1969)."""
    check = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char)
        for _ in range(place % 8):
            value = int(_VERHOEFF_CYCLE[value])
        check = _dihedral(check, value)
    return digits[0] in "23456789" and check == 0 and varied(digits)


def _dihedral(a: int, b: int) -> int:
    """Multiply in the dihedral group of the pentagon, elements 0 to 4 rotations, 5 to 9 flips."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def is_aba(digits: str) -> bool:
    """US routing number: a Federal Reserve prefix, weights 3 7 1 to a multiple of 10."""
    prefix = int(digits[:2])
    known = prefix <= 12 or 21 <= prefix <= 32 or 61 <= prefix <= 72 or prefix == 80
    return known and varied(digits) and weighted(digits, "371371371") % 10 == 0


def is_nhs(digits: str) -> bool:
    """UK NHS number: weights 10 to 2, mod 11."""
    check = 11 - weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return varied(digits) and check % 11 == int(digits[9]) and check != 10


def is_sin(digits: str) -> bool:
    """Canadian social insurance number: Luhn; no province is 0 or 8."""
    return digits[0] not in "08" and varied(digits) and luhn_valid(digits)


def is_cpf(digits: str) -> bool:
    """Brazil, persons: two check digits mod 11."""
    first = weighted(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(digits, range(11, 1, -1)) * 10 % 11 % 10
    return varied(digits) and digits[9:] == f"{first}{second}"


def is_nir(value: str) -> bool:
    """France: sex, year, month, place, order and the key 97 - n mod 97; Corsica 2A and 2B."""
    number = value[:13].replace("2A", "19").replace("2B", "18")
    month = int(value[3:5])
    plausible = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return plausible and number.isdecimal() and int(value[13:]) == 97 - int(number) % 97


def is_codice_fiscale(value: str) -> bool:
    """Italy: odd places by table, even ones by value, the sum mod 26 is the last letter."""
    total = sum(_FISCAL_ODD[c] for c in value[0:15:2])
    total += sum(int(c, 36) - (0 if c.isdecimal() else 10) for c in value[1:15:2])
    return chr(ord("A") + total % 26) == value[15]


def is_dni(value: str) -> bool:
    """Spain, DNI and NIE: the letter is the number mod 23."""
    number = value[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == value[-1]


def is_pesel(digits: str) -> bool:
    """Poland: a date of birth (the century is in the month) and weights 1 3 7 9."""
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    return is_date(century + year, month % 20, day) and weighted(digits, "13791379131") % 10 == 0


def is_bsn(digits: str) -> bool:
    """Netherlands: weights 9 to 2 and -1, a multiple of 11."""
    return varied(digits) and weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def is_steuer_id(digits: str) -> bool:
    """Germany: one digit of the first ten comes twice or thrice; ISO 7064 mod 11,10."""
    counts = sorted(digits[:10].count(d) for d in set(digits[:10]))
    product = 10
    for char in digits[:10]:
        product = ((product + int(char)) % 10 or 10) * 2 % 11
    repeated = counts[-1] in (2, 3) and counts[-2] == 1
    return digits[0] != "0" and repeated and (11 - product) % 10 == int(digits[10])


def is_nric(value: str) -> bool:
    """Singapore: weights 2 7 6 5 4 3 2, an offset and an alphabet by prefix."""
    prefix = value[0]
    offset = {"S": 0, "F": 0, "T": 4, "G": 4, "M": 3}[prefix]
    alphabet = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "XWUTRQPNJLK"}
    letters = alphabet.get(prefix, "XWUTRQPNMLK")
    rest = (weighted(value[1:8], "2765432") + offset) % 11
    return letters[10 - rest if prefix == "M" else rest] == value[8]


def is_my_number(digits: str) -> bool:
    """Japan: weights 6 5 4 3 2 7 6 5 4 3 2; the check digit is 11 - rest, or 0."""
    rest = weighted(digits, "65432765432") % 11
    return varied(digits) and int(digits[11]) == (0 if rest <= 1 else 11 - rest)


def is_chinese_id(value: str) -> bool:
    """China: date of birth and ISO 7064 mod 11-2 (GB 11643)."""
    if not is_date(int(value[6:10]), int(value[10:12]), int(value[12:14])):
        return False
    rest = sum(int(value[i]) * pow(2, 17 - i, 11) for i in range(17)) % 11
    return "10X98765432"[rest] == value[17]


def is_personnummer(digits: str) -> bool:
    """Sweden: a date of birth, Luhn over the ten digits."""
    return is_short_date(digits[-10:]) and luhn_valid(digits[-10:])


def is_vin(value: str) -> bool:
    """Vehicle identification number: ISO 3779 letters, check digit at place 9 (49 CFR 565)."""
    total = sum(_VIN_PLACES.index(c) % 10 * w for c, w in zip(value, _VIN_WEIGHTS, strict=True))
    return "0123456789X"[total % 11] == value[8] and not value.isdecimal()


def is_base58check(value: str) -> bool:
    """Bitcoin-like address: 21 bytes and the first 4 of their double SHA-256, in base 58."""
    number = 0
    for char in value:
        number = number * 58 + _BASE58.index(char)
    if number >= 1 << 200:
        return False
    data = number.to_bytes(25, "big")
    return _sha256(_sha256(data[:21]))[:4] == data[21:]


def _sha256(data: bytes) -> bytes:
    state = Hash(SHA256())
    state.update(data)
    return state.finalize()


def is_bech32(value: str) -> bool:
    """Segregated-witness address: BIP 173 or BIP 350 checksum."""
    prefix, _, data = value.lower().rpartition("1")
    check = 1
    high, low = [ord(c) >> 5 for c in prefix], [ord(c) & 31 for c in prefix]
    for part in (*high, 0, *low, *(_BECH32.find(c) for c in data)):
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ part
        for i, generator in enumerate(_BECH32_GENERATOR):
            check ^= generator if top >> i & 1 else 0
    return check in _BECH32_CONSTANTS


def is_korean_registration(digits: str) -> bool:
    """Korea, residents and foreigners: a date of birth, a century digit and weights 2 to 9, 2 to 5.

    Numbers given out since October 2020 have no check digit: a birth since then passes without.
    """
    if not "1" <= digits[6] <= "8":
        return False
    year = (2000 if digits[6] in "3478" else 1900) + int(digits[:2])
    if not is_date(year, int(digits[2:4]), int(digits[4:6])):
        return False
    shift = 13 if digits[6] in "5678" else 11
    checked = (shift - weighted(digits, "234567892345") % 11) % 10 == int(digits[12])
    return checked or ("201001" <= digits[:6] < "300101" and digits[6] in "3478")


def is_korean_business(digits: str) -> bool:
    """Korean business registration number: weights 1 3 7 1 3 7 1 3 5 and a carry (tax office)."""
    total = weighted(digits, "137137135") + int(digits[8]) * 5 // 10
    return varied(digits) and (10 - total % 10) % 10 == int(digits[9])


def is_plate(value: str) -> bool:
    """Number plate or VIN by context: letters and digits."""
    return len(value) >= 5 and not value.isalpha()


def any_value(value: str) -> bool:
    """No check digit: shape and context decide."""
    return True
