"""Made-up identifiers carry right check digits: against published specimens and second formulas."""

import random
import re
from collections.abc import Callable

import pytest

from ptmo_secure.privacy.synth import checksums, credentials, identifiers
from tee_sim.guard.numbers import digits_of, is_card, is_ssn, luhn_valid

ROUNDS = 200


def drawn(make: Callable[[random.Random], str]) -> list[str]:
    rng = random.Random(7)
    return [make(rng) for _ in range(ROUNDS)]


@pytest.mark.parametrize(
    ("computed", "published"),
    [
        (checksums.luhn("7992739871"), "3"),  # the usual Luhn example
        (checksums.mod97_iban("GB", "WEST12345698765432"), "82"),  # ISO 13616 registry
        (checksums.mod97_iban("DE", "370400440532013000"), "89"),
        (checksums.mod97_iban("FR", "20041010050500013M02606"), "14"),
        (checksums.nhs("943476591"), "9"),  # NHS Data Dictionary
        (checksums.bsn("11122233"), "3"),
        (checksums.cpf("111444777"), "35"),
        (checksums.dni(12345678), "Z"),
        (checksums.hetu("131052308"), "T"),  # 131052-308T, Finnish population register
        (checksums.pesel("4405140135"), "9"),  # 44051401359
        (checksums.steuer_id("8609574271"), "9"),  # 86 095 742 719
        (checksums.tfn("12345678"), "2"),
        (checksums.verhoeff("236"), "3"),  # Verhoeff 1969
        (checksums.chinese("11010519491231002"), "X"),  # GB 11643
        (checksums.aba("11100002"), "5"),
        (checksums.nir("2550814168025"), "38"),
        (checksums.rrn("900101123456"), "8"),  # 2*9+3*0+...: 124 = 11*11+3, 11-3
    ],
)
def test_check_digits_agree_with_published_specimens(computed: str, published: str) -> None:
    assert computed == published


def test_payloads_without_a_check_digit_are_drawn_again() -> None:
    assert checksums.nhs("000000001") is not None
    assert any(checksums.nhs(f"{n:09d}") is None for n in range(30))
    rng = random.Random(1)
    assert len(identifiers.drawn(rng, checksums.nhs, 9, "4")) == 10


def test_cards_ssns_and_luhn_numbers_pass_the_guards_own_validators() -> None:
    cards = [digits_of(card) for card in drawn(identifiers.payment_card)]
    assert all(luhn_valid(card) for card in cards)
    usual = sum(is_card(card) for card in cards) / len(cards)
    assert 0.85 < usual < 1.0  # the others are of rare lengths
    assert all(is_ssn(digits_of(ssn)) for ssn in drawn(identifiers.us_ssn))
    assert all(luhn_valid(digits_of(sin)) for sin in drawn(identifiers.sin))
    assert all(luhn_valid(digits_of(n)) for n in drawn(identifiers.personnummer))


def test_ibans_leave_one_modulo_97() -> None:
    for iban in drawn(identifiers.iban):
        plain = iban.replace(" ", "").upper()
        assert int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
        assert len(plain) in range(15, 32)


def test_korean_numbers_are_dates_with_a_right_last_digit() -> None:
    for rrn in drawn(identifiers.rrn):
        number = rrn.replace("-", "")
        assert re.fullmatch(r"\d\d(0[1-9]|1[0-2])(0[1-9]|1\d|2[0-8])[1-4]\d{6}", number)
        total = sum(
            int(d) * w for d, w in zip(number, [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5], strict=False)
        )
        assert (11 - total % 11) % 10 == int(number[12])


def test_other_national_numbers_satisfy_their_equations() -> None:
    for nhs in drawn(identifiers.nhs_number):
        digits = [int(d) for d in digits_of(nhs)]
        assert sum(d * w for d, w in zip(digits, range(10, 0, -1), strict=True)) % 11 == 0
    for bsn in drawn(identifiers.bsn):
        weights = [9, 8, 7, 6, 5, 4, 3, 2, -1]
        assert sum(int(d) * w for d, w in zip(bsn, weights, strict=True)) % 11 == 0
    for tfn in drawn(identifiers.tfn):
        weights = [1, 4, 3, 7, 5, 8, 6, 9, 10]
        assert sum(int(d) * w for d, w in zip(digits_of(tfn), weights, strict=True)) % 11 == 0
    for routing in drawn(identifiers.routing_number):
        weights = [3, 7, 1] * 3
        assert sum(int(d) * w for d, w in zip(routing, weights, strict=True)) % 10 == 0
    for pesel in drawn(identifiers.pesel):
        weights = [1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]
        assert sum(int(d) * w for d, w in zip(pesel, weights, strict=True)) % 10 == 0
    for nir in drawn(identifiers.nir):
        number = digits_of(nir)
        assert (int(number[:13]) + int(number[13:])) % 97 == 0
    for number in drawn(identifiers.aadhaar):
        plain = digits_of(number)
        assert len(plain) == 12
        assert checksums.verhoeff(plain[:-1]) == plain[-1]


def test_every_named_identifier_can_be_made() -> None:
    for makers in (identifiers.NATIONAL_IDS, identifiers.TAX_IDS):
        for make in makers.values():
            assert all(len(value) >= 8 for value in drawn(make))


def test_secrets_and_addresses_have_their_shapes() -> None:
    assert all(4 <= len(value) <= 40 for value in drawn(credentials.password))
    assert all(value.strip() == value for value in drawn(credentials.password))
    assert all(value.isdigit() and 4 <= len(value) <= 6 for value in drawn(credentials.pin))
    assert all(len(value) >= 20 and " " not in value for value in drawn(credentials.api_key))
    assert all(value.count(".") == 2 for value in drawn(credentials.web_token))
    assert all(value.count("PRIVATE KEY") == 2 for value in drawn(credentials.private_key))
    pattern = r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"
    assert all(re.fullmatch(pattern, value) for value in drawn(credentials.mac_address))
    assert all(re.search(r"\d", value) for value in drawn(credentials.coordinates))
