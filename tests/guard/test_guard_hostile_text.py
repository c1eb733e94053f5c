"""Hostile inputs: the rules take linear time and never fail."""

import time

import pytest

from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.guard.scoring import scan_text

SIZE, MOST = 20_000, 1 << 20
UNITS = {
    "letters": "a",
    "digits": "4",
    "spaced digits": "4 ",
    "dashed digits": "4-",
    "groups": "4111 ",
    "phone groups": "123-",
    "dots": ".",
    "dotted letters": "a.",
    "dotted host": "x@a.",
    "at signs": "@",
    "letters at": "aa@",
    "spaces": " ",
    "newlines": "\n",
    "parentheses": "(",
    "quotes": "'",
    "double quotes": '"',
    "plus": "+",
    "plus digits": "+1",
    "underscores": "_",
    "hyphens": "-",
    "hyphenated": "a-",
    "possessives": "a's ",
    "my": "my ",
    "password": "password ",
    "my password": "my password is ",
    "password for": "password for ",
    "password for words": "my password for a b c d e ",
    "password colon": "password:",
    "password quote": "password: '",
    "changed to": "changed my password to ",
    "use as": "use x as my ",
    "is my": "x is my ",
    "passphrase": "passphrase: aaa ",
    "phrase words": "passphrase: " + "word " * 50,
    "key names": "secret api key token ",
    "pins": "PIN 4821 ",
    "korean": "\ube44\ubc00\ubc88\ud638\ub294 ",
    "commas": ",",
    "questions": "what ",
    "question marks": "?",
    "sentences": "what is it? ",
    "emoji": "\U0001f600",
    "zeros": "00",
    "combining": "e\u0301",
    "cyrillic": "\u0430",
    "zero width": "a\u200b",
    "fullwidth": "\uff11",
    "base64": "QUJDREVGR0g",
    "base64 words": "am9obkBnbWFpbC5jb20= ",
    "hex": "6a6f",
    "hex pairs": "6a ",
    "percent": "%41",
    "entities": "&#65;",
    "quoted-printable": "=41",
    "number words": "one two ",
    "korean digits": "\uc77c\uc774",
    "at and dot": "a at b dot ",
    "spaced letters": "a b ",
    "cut words": "a\nb",
    "given names": "john ",
    "titles": "Dr. Kim ",
    "names": "John Smith ",
    "house numbers": "12 Oak ",
    "streets": "12 Oak Street ",
    "iban": "GB82 WEST ",
    "urls": "http://a?",
    "born on": "born on ",
    "diagnosed": "I was diagnosed with ",
    "korean names": "\uae40\ucca0\uc218 ",
    "korean districts": "\uac15\ub0a8\uad6c ",
    "leet": "p4ss ",
    "pem": "-----BEGIN PRIVATE KEY-----",
    "jwt": "eyJ",
    "digits and newlines": "1\n",
    "letters for digits": "I1 ",
    "backwards": "ym eman si ",
    "greetings": "\nDear ",
    "fields": "\nName: ",
    "employers": "I work for ",
    "coordinates": "12.3456,",
    "hangul in parts": "\u1112\u1161\u11ab",
    "joined emoji": "\U0001f468\u200d",
    "backward capitals": "nhoJ ",
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_twenty_kilobytes_take_bounded_time(unit):
    text = (unit * (SIZE // len(unit) + 1))[:SIZE]
    start = time.process_time()
    scan_text(text + "\nmy password is hunter2. What is Python?")
    assert time.process_time() - start < 4.0  # the slowest takes 0.3 s


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_megabyte_takes_bounded_time(unit):
    text = (unit * (MOST // len(unit) + 1))[:MOST]
    start = time.process_time()
    scan_text(text)
    assert time.process_time() - start < 60.0  # the slowest takes 15 s


@pytest.mark.parametrize("unit", ["a", "4 ", "my password is ", "x is my ", "a's ", "(", ","])
def test_the_time_grows_linearly(unit):
    def cost(size):
        text = (unit * size)[:size]
        times = []
        for _ in range(3):
            start = time.process_time()
            scan_text(text)
            times.append(time.process_time() - start)
        return min(times)

    assert cost(20_000) < 4 * 3 * cost(5_000) + 0.02


def test_a_secret_after_much_noise_is_still_found():
    noise = "".join(unit * 20 for unit in UNITS.values())
    text = noise + "\nmy password is hunter2\n" + noise
    at = text.index("hunter2")
    assert any(s.start <= at and s.end >= at + 7 for s in scan_text(text).spans)


@pytest.mark.parametrize("row", RECOGNIZERS, ids=lambda row: row.kind)
def test_no_recogniser_fails_on_odd_characters(row):
    for text in (
        "\0",
        "\ufffd" * 10,
        "\u202e\u200d\ufeff",
        "\U0010ffff",
        "\x85\u2028",
        "\u0664" * 40,
    ):
        for start, end in row.find(text):
            assert 0 <= start < end <= len(text)
