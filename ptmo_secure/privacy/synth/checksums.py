"""Check digits of identifiers, by their standards. Each takes digits and returns the check part."""

_VERHOEFF_MULTIPLY = (
    *("0123456789", "1234067895", "2340178956", "3401289567", "4012395678"),
    *("5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
)
_VERHOEFF_PERMUTE = (
    *("0123456789", "1576283094", "5803796142", "8916043527"),
    *("9453126870", "4286573901", "2793806415", "7046913258"),
)
_VERHOEFF_INVERSE = "0432156789"


def luhn(payload: str) -> str:
    """Mod 10 of ISO/IEC 7812-1 annex B: cards, Canadian SIN, Swedish personnummer."""
    total = 0
    for index, char in enumerate(reversed(payload)):
        value = int(char) * (2 - index % 2)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def mod97_iban(country: str, account: str) -> str:
    """The two check digits of an IBAN (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    number = int("".join(str(int(char, 36)) for char in f"{account}{country}00"))
    return f"{98 - number % 97:02d}"


def weighted(payload: str, weights: str | tuple[int, ...]) -> int:
    """Sum of digits times weights."""
    factors = [int(weight) for weight in weights]
    return sum(int(digit) * factor for digit, factor in zip(payload, factors, strict=True))


def rrn(payload: str) -> str:
    """Check digit of a Korean resident registration number: (11 - sum mod 11) mod 10."""
    return str((11 - weighted(payload, "234567892345") % 11) % 10)


def chinese(payload: str) -> str:
    """Check character of a Chinese resident identity number (GB 11643, ISO 7064 MOD 11-2)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[weighted(payload, weights) % 11]


def pesel(payload: str) -> str:
    """Check digit of a Polish PESEL."""
    return str(-weighted(payload, "1379137913") % 10)


def nhs(payload: str) -> str | None:
    """Check digit of an NHS number (mod 11); None where no number has this payload."""
    digit = (11 - weighted(payload, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11) % 11
    return None if digit == 10 else str(digit)


def bsn(payload: str) -> str | None:
    """Last digit of a Dutch citizen service number (the "eleven test"); None where none fits."""
    digit = weighted(payload, "98765432") % 11
    return None if digit == 10 else str(digit)


def cpf(payload: str) -> str:
    """The two check digits of a Brazilian CPF."""
    first = _cpf_digit(payload, 10)
    return f"{first}{_cpf_digit(f'{payload}{first}', 11)}"


def _cpf_digit(payload: str, heaviest: int) -> int:
    rest = weighted(payload, tuple(range(heaviest, 1, -1))) % 11
    return 0 if rest < 2 else 11 - rest


def dni(number: int) -> str:
    """Letter of a Spanish DNI."""
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]


def hetu(payload: str) -> str:
    """Check character of a Finnish personal identity code, from birth date and serial number."""
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(payload) % 31]


def nir(payload: str) -> str:
    """The two check digits of a French NIR: 97 - number mod 97."""
    return f"{97 - int(payload) % 97:02d}"


def steuer_id(payload: str) -> str:
    """Check digit of a German tax identification number (ISO/IEC 7064 MOD 11,10)."""
    product = 10
    for char in payload:
        total = (int(char) + product) % 10 or 10
        product = total * 2 % 11
    return str((11 - product) % 10)


def tfn(payload: str) -> str | None:
    """Last digit of an Australian tax file number (mod 11); None where none fits."""
    partial = weighted(payload, (1, 4, 3, 7, 5, 8, 6, 9))
    return next((str(d) for d in range(10) if (partial + 10 * d) % 11 == 0), None)


def verhoeff(payload: str) -> str:
    """Check digit by Verhoeff's dihedral code: Indian Aadhaar."""
    check = 0
    for index, char in enumerate(reversed(payload), start=1):
        permuted = int(_VERHOEFF_PERMUTE[index % 8][int(char)])
        check = int(_VERHOEFF_MULTIPLY[check][permuted])
    return _VERHOEFF_INVERSE[check]


def aba(payload: str) -> str:
    """Check digit of a US bank routing number."""
    return str(-weighted(payload, "37137137") % 10)
