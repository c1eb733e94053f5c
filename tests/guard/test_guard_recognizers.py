"""Tables of what each recogniser must find, and of harmless text that must stay PUBLIC."""

import pytest

from tee_sim.guard.numbers import digits_of, is_card, is_international, is_nanp, is_ssn, luhn_valid
from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.guard.scoring import scan_text
from tee_sim.scan_result import ENTITY_KINDS


def values(text):
    """What was found: [(kind, value), ...]."""
    return [(span.kind, text[span.start : span.end]) for span in scan_text(text).spans]


SECRETS = [
    ("My password is secret123.", "secret123"),
    ("my password is: hunter2", "hunter2"),
    ("My password is sunshine", "sunshine"),
    ("My password is sunshine!!", "sunshine!!"),
    ("My password is sunshine and I forgot my user name", "sunshine"),
    ("my gmail password is Tr0ub4dor&3, keep it safe", "Tr0ub4dor&3"),
    ("My password for Netflix is qwerty99", "qwerty99"),
    ("the password for my work account is Blue-42-Sky", "Blue-42-Sky"),
    ("The password is swordfish.", "swordfish"),
    ("My wife's password is iloveyou2", "iloveyou2"),
    ("password: hunter2", "hunter2"),
    ("Password = correct-Horse-7", "correct-Horse-7"),
    ("pwd=abc!234", "abc!234"),
    ("DB_PASSWORD=s3cr3t!", "s3cr3t!"),
    ('{"user": "bob", "password": "hunter2"}', "hunter2"),
    ("my password is 'two words'", "two words"),
    ("my password is \u201ccorrect horse\u201d ok?", "correct horse"),
    ("I changed my password to N3wPass! yesterday", "N3wPass!"),
    ("please set the wifi password to guest2024", "guest2024"),
    ("I use dragonfly as my password", "dragonfly"),
    ("I used hunter2 for my bank password", "hunter2"),
    ("hunter2 is my password", "hunter2"),
    ("Swordfish is my password.", "Swordfish"),
    ("log in with password hunter2 please", "hunter2"),
    ("My PIN is 4821", "4821"),
    ("PIN: 0000", "0000"),
    ("my pin number is 48-21-9", "48-21-9"),
    ("the PIN code for my card is 9317", "9317"),
    ("PIN 4821 does not work", "4821"),
    ("CVV 123", "123"),
    ("The door code is 5512", "5512"),
    ("My OTP is 482910", "482910"),
    ("verification code: 771204", "771204"),
    ("api key: sk-abc123DEF456", "sk-abc123DEF456"),
    ("API_KEY=AKIA1234567890", "AKIA1234567890"),
    ("Authorization: Bearer eyJhbGciOi.J9x", "eyJhbGciOi.J9x"),
    ("client_secret: 9f8e7d6c", "9f8e7d6c"),
    ("token = 'ab12cd34ef56'", "ab12cd34ef56"),
    ("passphrase: correct horse battery staple", "correct horse battery staple"),
    ("My recovery phrase is apple river moon candle", "apple river moon candle"),
    ("my passphrase is velvet", "velvet"),
    ("\ube44\ubc00\ubc88\ud638\ub294 secret123\uc785\ub2c8\ub2e4.", "secret123"),
    ("\uc81c \ube44\ubc88: abcd1234", "abcd1234"),
]

CARDS = [
    ("My card is 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("4111111111111111", "4111111111111111"),
    ("card 5500-0055-5555-5559, exp 12/27", "5500-0055-5555-5559"),
    ("amex 3782 822463 10005", "3782 822463 10005"),
    ("pay with 6011000990139424 please", "6011000990139424"),
    ("JCB 3530 1113 3330 0000", "3530 1113 3330 0000"),
    ("diners 3056 9309 0259 04", "3056 9309 0259 04"),
    ("mastercard 2223 0031 2200 3222", "2223 0031 2200 3222"),
    ("4111 1111 1111 1111 123", "4111 1111 1111 1111"),
    ("12 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("41 11 11 11 11 11 11 11", "41 11 11 11 11 11 11 11"),
    ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ("\uff14111 1111 1111 1111", "\uff14111 1111 1111 1111"),
]

SSNS = [
    ("My SSN is 536-22-1234", "536-22-1234"),
    ("536-22-1234", "536-22-1234"),
    ("social security number 536 22 1234", "536 22 1234"),
    ("ssn: 536221234", "536221234"),
]

PHONES = [
    ("call me at 212-555-0123", "212-555-0123"),
    ("(212) 555-0123", "(212) 555-0123"),
    ("212.555.0123 is my number", "212.555.0123"),
    ("+1 212 555 0123", "+1 212 555 0123"),
    ("+1-212-555-0123", "+1-212-555-0123"),
    ("1-212-555-0123", "1-212-555-0123"),
    ("text 2125550123", "2125550123"),
    ("my cell is 555-0123", "555-0123"),
    ("+44 20 7946 0958", "+44 20 7946 0958"),
    ("+44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    ("+49 30 901820", "+49 30 901820"),
    ("+821012345678", "+821012345678"),
    ("+82 10-1234-5678 now", "+82 10-1234-5678"),
    ("0082 10 1234 5678", "0082 10 1234 5678"),
    ("010-1234-5678", "010-1234-5678"),
    ("1. 010-1234-5678", "010-1234-5678"),
    ("01098765432", "01098765432"),
    ("02-345-6789", "02-345-6789"),
    ("031-234-5678\ub85c \uc804\ud654 \uc8fc\uc138\uc694", "031-234-5678"),
    ("\ubc88\ud638\ub294010-1234-5678\uc785\ub2c8\ub2e4", "010-1234-5678"),
    ("In 2024 call 212-555-0123 or so", "212-555-0123"),
]

EMAILS = [
    ("write to bob@example.com", "bob@example.com"),
    ("Bob.Smith+tag@mail.example.co.uk!", "Bob.Smith+tag@mail.example.co.uk"),
    ("<alice_w@corp.io>", "alice_w@corp.io"),
    ("mail me...bob@example.com.", "bob@example.com"),
    ("_bob@example.com_", "_bob@example.com"),
    ("bob@example.com\uc73c\ub85c \ubcf4\ub0b4", "bob@example.com"),
    ("a" * 80 + "@example.com", "a" * 80 + "@example.com"),
]


@pytest.mark.parametrize("text,value", SECRETS)
def test_secrets_in_context_are_found(text, value):
    assert values(text) == [("SECRET", value)]


@pytest.mark.parametrize("text,value", CARDS)
def test_payment_cards_are_found(text, value):
    assert values(text) == [("PAYMENT_CARD", value)]
    assert scan_text(text).score >= 0.98


@pytest.mark.parametrize("text,value", SSNS)
def test_social_security_numbers_are_found(text, value):
    assert values(text) == [("US_SSN", value)]
    assert scan_text(text).score >= 0.95


@pytest.mark.parametrize("text,value", PHONES)
def test_phone_numbers_are_found(text, value):
    assert values(text) == [("PHONE", value)]


@pytest.mark.parametrize("text,value", EMAILS)
def test_email_addresses_are_found(text, value):
    assert values(text) == [("EMAIL", value)]


HARMLESS = [
    "What is Python?",
    "How do I reset a forgotten password?",
    "How do I reset my password?",
    "What makes a strong password?",
    "What is a PIN code?",
    "Why is 1234 a bad PIN?",
    "123456 is the most common password",
    "My password is not working",
    "My password is too weak, what should I do?",
    "my password is wrong",
    "My password is weak!",
    "my password is about to expire",
    "The password is required.",
    "The password is stored as a salted hash",
    "The password is case-sensitive.",
    "The password is 8 characters long",
    "my password is 12 characters long",
    "A password is a string used to authenticate a user",
    "The password must be at least 8 characters",
    "password: must be at least 8 characters",
    "the password for the router is usually printed on the label",
    "What is the password for the default router?",
    "What is the difference between a password and a passphrase?",
    "My passphrase is too long to remember",
    "Should I use my birthday as my password?",
    "Should I use a password manager for my passwords?",
    "password = input('Password: ')",
    "password = getpass.getpass()",
    "password = os.environ['DB_PASSWORD']",
    "def login(user: str, password: str) -> bool:",
    "password = user.password",
    "export API_KEY=<your-api-key>",
    "API_KEY=YOUR_API_KEY",
    "api_key = ${API_KEY}",
    "password: ********",
    "password: xxxxxx",
    "unexpected token '}' at position 5",
    "SyntaxError: unexpected token <",
    "Each token is a piece of text",
    "What is an API key?",
    "The secret is consistency.",
    "My secret is that I love pizza",
    "Explain the token bucket algorithm",
    "Connect pin 4 to pin 13 on the Arduino",
    "Pin 3 is 5 V",
    "Is my password safe?",
    "What is my password?",
    "Where is my password saved?",
    "Explain 3.14159265",
    "3.14159265358979323846264338327950288",
    "ISBN 978-3-16-148410-0",
    "ISBN 9783161484100",
    "192-168 grid",
    "192.168.0.1 is a private address",
    "255.255.255.255",
    "The meeting is on 2024-01-15 at 10:30",
    "2024.01.15",
    "01/15/2024",
    "15-01-2024",
    "2024-01-15T10:30:00Z",
    "Between 1914-1918 and 1939-1945",
    "1,234,567,890 people",
    "1700000000000 ms since the epoch",
    "1234 5678 9012 3456",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "000-12-3456",
    "666-12-3456",
    "900-12-3456",
    "078-05-1120",
    "123-45-67890",
    "100 20 3000",
    "100-200-3000",
    "123-456-7890",
    "version 1.2.3.4-5",
    "x+12345678",
    "+100000000 users",
    "+1 000 000",
    "+5 +10 +15",
    "part no. 12-3456-789",
    "@dataclass",
    "user@localhost",
    "icon@2x.png",
    "git clone git@github.com:org/repo.git",
    "pip install package@1.2.3",
    "10,000 * 25 = 250,000",
    "call 911",
    "page 555 of 1000",
    "the year 2000 bug",
    "e = 2.718281828459045",
    "0x7fff5fbff8a0",
    "550e8400-e29b-41d4-a716-446655440000",
    "\ud30c\uc774\uc36c\uc774 \ubb50\uc57c?",
    "\ube44\ubc00\ubc88\ud638\ub97c \uc5b4\ub5bb\uac8c \ubc14\uafb8\ub098\uc694?",
    "",
    " \n\t",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays_public(text):
    result = scan_text(text)
    assert (result.level, result.score, result.spans) == ("PUBLIC", 0.0, ())


def test_the_tables_are_as_large_as_they_should_be():
    positives = [*SECRETS, *CARDS, *SSNS, *PHONES, *EMAILS]
    assert len(positives) >= 25 and len(HARMLESS) >= 40


def test_every_entity_has_one_row_and_one_wire_code():
    assert sorted(row.kind for row in RECOGNIZERS) == sorted(ENTITY_KINDS)
    for row in RECOGNIZERS:
        assert 0.0 <= row.floor <= row.severity <= 1.0


@pytest.mark.parametrize("digits", ["79927398713", "4111111111111111", "0"])
def test_luhn_accepts_valid_numbers_and_no_other_last_digit(digits):
    assert luhn_valid(digits)
    for wrong in set("0123456789") - {digits[-1]}:
        assert not luhn_valid(digits[:-1] + wrong)


@pytest.mark.parametrize(
    "digits,expected",
    [("4111111111111111", True), ("9111111111111111", False), ("41111111111111", False)],
)
def test_a_card_needs_an_issuer_and_its_length(digits, expected):
    assert is_card(digits) is expected


def test_validators_know_their_numbering_plans():
    assert is_nanp("2125550123") and not is_nanp("1125550123") and not is_nanp("2121550123")
    assert not is_nanp("9115550123") and not is_nanp("2222222222")
    assert is_international("442079460958") and not is_international("0442079460958")
    assert not is_international("2801234567") and not is_international("1234567")
    assert is_ssn("536221234") and not is_ssn("536001234") and not is_ssn("536220000")
    assert digits_of("(\uff12\u0663) 4-x") == "234"
