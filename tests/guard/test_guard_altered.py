"""Placeholders as language models alter them, and surrogates: what is filled, and what never is."""

import itertools
import random

import pytest
from masked_texts import masked, session

from tee_sim.guard import surrogates
from tee_sim.guard.checksums import is_iban, is_korean_registration
from tee_sim.guard.numbers import luhn_valid
from tee_sim.guard.restoring import unmask
from tee_sim.placeholders import ESCAPED, KINDS
from tee_sim.scan_result import Span

ALTERATIONS = {
    "lower": lambda k, n: f"[{k}_{n}]".lower(),
    "title": lambda k, n: f"[{k}_{n}]".title(),
    "inner blanks": lambda k, n: f"[ {k}_{n} ]",
    "blank for _": lambda k, n: f"[{k} {n}]".replace("_", " "),
    "blanks around _": lambda k, n: f"[{k} _ {n}]",
    "hyphens": lambda k, n: f"[{k}-{n}]".replace("_", "-"),
    "nothing for _": lambda k, n: f"[{k}{n}]",
    "line break": lambda k, n: f"[{k}\n_{n}]",
    "no brackets": lambda k, n: f"{k}_{n}",
    "no brackets, lower": lambda k, n: f"{k}_{n}".lower(),
    "no brackets, blank": lambda k, n: f"{k} {n}",
    "angle": lambda k, n: f"<{k}_{n}>",
    "double angle": lambda k, n: f"<<{k}_{n}>>",
    "braces": lambda k, n: f"{{{k}_{n}}}",
    "double braces": lambda k, n: f"{{{{{k}_{n}}}}}",
    "round": lambda k, n: f"({k}_{n})",
    "HTML": lambda k, n: f"&lt;{k}_{n}&gt;",
    "escaped": lambda k, n: rf"\[{k}\_{n}\]".replace(f"{k}", k.replace("_", r"\_")),
    "escaped _": lambda k, n: f"[{k}_{n}]".replace("_", r"\_"),
    "full width": lambda k, n: "".join(chr(ord(c) + 0xFEE0) for c in f"[{k}_{n}]"),
    "CJK brackets": lambda k, n: f"\u3010{k}_{n}\u3011",
    "no-break blank": lambda k, n: f"[{k}\xa0{n}]",
    "dash": lambda k, n: f"[{k}\u2013{n}]",
    "number sign": lambda k, n: f"[{k} #{n}]",
    "colon": lambda k, n: f"[{k}: {n}]",
    "leading zero": lambda k, n: f"[{k}_0{n}]",
}
AROUND = (
    "{}",
    "Dear {},",
    "**{}**",
    "_{}_",
    "`{}`",
    '"{}"',
    "- {}\n",
    "({})",
    "see {}.",
    "{}\uc740",
)


@pytest.fixture(scope="module")
def held():
    filled = session()
    for kind in KINDS:
        for number in range(1, 4):
            filled.issue(kind, f"value {number} of {kind}")
    return filled


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_placeholder_is_restored(held, name):
    alter, missed, tried = ALTERATIONS[name], [], 0
    for kind, number, around in itertools.product(KINDS, (1, 3), AROUND):
        altered = alter(kind, number)
        if around == "_{}_" and not altered.startswith(
            ("[", "<", "{", "(", "\\", "&", "\uff3b", "\u3010")
        ):
            continue  # then the marks are a part of the word
        tried += 1
        value = f"value {number} of {kind}"
        if value not in unmask(held, around.format(altered))[0]:
            missed.append(around.format(altered))
    assert tried > 600 and missed == []


@pytest.mark.parametrize(
    "answer,expected",
    [
        ("[PERSON_1]'s", "value 1 of PERSON's"),
        ("[PERSON_1]s", "value 1 of PERSONs"),
        ("[PERSON_1's]", "value 1 of PERSON's"),
        ("PERSON_1's", "value 1 of PERSON's"),
        ("PERSON_1s, and", "value 1 of PERSONs, and"),
        ("the [PERSON_1\u2019s] car", "the value 1 of PERSON\u2019s car"),
        ("[PERSON_1][PERSON_2]", "value 1 of PERSONvalue 2 of PERSON"),
        ("[[PERSON_1]]", "[value 1 of PERSON]"),
        ("\\[PERSON_1]", "\\value 1 of PERSON"),
        ("[PERSON_1, PERSON_9]", "[value 1 of PERSON, PERSON_9]"),
        ("{PERSON_1]", "{value 1 of PERSON]"),
    ],
)
def test_what_stands_beside_a_placeholder_stays(held, answer, expected):
    assert unmask(held, answer)[0] == expected


@pytest.mark.parametrize(
    "answer",
    [
        *("[PERSON_4]", "[PERSON_0]", "[PERSON_11]", "[PERSON_1b]", "[PERSON_1zz]", "[PERSONS_1]"),
        *("[PERSON_]", "[PERSON]", "[_1]", "[ANIMAL_1]", "XPERSON_1", "PERSON_12", "PERSON_1x"),
        *("person 1", "Person 1 of 3", "my_person_1_id", "[PERSON_1000000000]", "date 1", "[1]"),
        *("1. PERSON", "AGE30", "PHONE 555", "PERSON_1_2", "[PER SON_1]", "PERSON", "\0", "person"),
    ],
)
def test_what_was_not_issued_is_never_filled(held, answer):
    assert unmask(held, answer)[0] == answer


def test_random_answers_are_filled_with_nothing():
    """An empty session fills no answer, whatever it holds; one with values only what it issued."""
    empty, rng = session(), random.Random(7)
    alphabet = "PERSON_1[]{}<>()EMAIL 23sb\\-"
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=30))
        assert unmask(empty, text)[0] == text


# -------------------------------------------------------------------------------------- surrogates


def surrogate(held, kind, value, around="so {} it is"):
    text = around.format(value)
    low = text.index(value)
    shown = masked(held, text, [Span(low, low + len(value), kind, 0.5)], "surrogate")
    assert unmask(held, shown)[0] == text
    head, tail = around.split("{}")
    return shown[len(head) : len(shown) - len(tail)]


def digits(text):
    return "".join(char for char in text if char.isdigit())


def test_a_surrogate_never_holds_the_name_that_it_stands_for(monkeypatch):
    monkeypatch.setitem(surrogates._LISTS, "family", ["Kimball", "Hakim", "Varley"])
    for _ in range(8):
        assert surrogate(session(), "PERSON", "Dr. Kim") == "Dr. Varley"


def test_surrogates_have_the_shape_and_the_check_digits_of_their_kind():
    held = session()
    card = surrogate(held, "PAYMENT_CARD", "4111 1111 1111 1111")
    assert card.startswith("4000 00") and luhn_valid(digits(card)) and len(card) == 19
    iban = surrogate(held, "IBAN", "GB82 WEST 1234 5698 7654 32")
    assert is_iban(iban.replace(" ", "")) and iban.startswith("GB") and iban.count(" ") == 5
    rrn = surrogate(held, "KR_RRN", "850312-1234565")
    assert is_korean_registration(digits(rrn)) and rrn[6] == "-"
    assert surrogate(held, "US_SSN", "536-22-1234").startswith("666-")
    assert surrogate(held, "PHONE", "010-1234-5678").startswith("010-0000-")
    assert "555-01" in surrogate(held, "PHONE", "(415) 867-5309")
    assert surrogate(held, "EMAIL", "ann.lee@mail.com").rpartition("@")[2].startswith("example.")
    assert surrogate(held, "IP_ADDRESS", "81.2.69.142").rpartition(".")[0] in (
        "192.0.2",
        "198.51.100",
        "203.0.113",
    )
    assert surrogate(held, "MAC_ADDRESS", "AA:BB:CC:DD:EE:FF").startswith("00:00:5E:00:53:")
    assert surrogate(held, "URL", "https://a.b/?token=x").startswith("https://example.com/")
    date = surrogate(held, "DATE_OF_BIRTH", "1985-03-12")
    assert len(date) == 10 and date != "1985-03-12" and date[:4] in ("1984", "1985", "1986")


def test_a_name_has_a_name_of_as_many_words_in_its_own_case():
    held = session()
    whole = surrogate(held, "PERSON", "Ann Lee")
    given, family = whole.split()
    assert surrogate(held, "PERSON", "ANN LEE") == whole.upper()
    assert surrogate(held, "PERSON", "Dr. Ann Lee") == f"Dr. {whole}"
    assert unmask(held, f"Dear {given}, Ms {family}")[0] == "Dear Ann, Ms Lee"
    assert (
        unmask(held, f"{given.lower()} {given}x x{given}")[0]
        == f"{given.lower()} {given}x x{given}"
    )
    korean = surrogate(held, "PERSON", "\uae40\ubbfc\uc218")
    assert len(korean) == 3 and all("\uac00" <= char <= "\ud7a3" for char in korean)
    assert unmask(held, f"{korean}\uc740")[0] == "\uae40\ubbfc\uc218\uc740"


def test_surrogates_are_the_same_within_a_session_and_others_in_another():
    one, same, other = session(), session(), session()
    other.key[:] = bytes(32)
    values = [("EMAIL", f"u{i}@mail.com") for i in range(20)]
    drawn = [[surrogate(held, *value) for value in values] for held in (one, same, other)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 20
    assert len(set(drawn[0]) & set(drawn[2])) <= 2


def test_a_surrogate_is_no_word_of_the_text():
    held = session()
    first = surrogate(held, "PERSON", "Ann Lee").split()[0]
    again = session()  # draws the same
    text = f"Ann Lee asked {first}"
    shown = masked(again, text, [Span(0, 7, "PERSON", 0.5)], "surrogate")
    assert not shown.startswith(first) and shown.endswith(first)
    assert unmask(again, shown)[0] == text


def test_a_text_that_holds_an_earlier_surrogate_is_escaped():
    held = session()
    whole = surrogate(held, "PERSON", "Ann Lee")
    text = f"Who is {whole}?"
    shown = masked(held, text, [], "surrogate")
    assert shown == f"Who is [{ESCAPED}_1]?" and unmask(held, shown)[0] == text


@pytest.mark.parametrize(
    "kind,value",
    [
        ("SECRET", "!abc123!"),
        ("SECRET", "<hunter22"),
        ("PERSON", "Ann Le\u0301"),
        ("PHONE", "#555#"),
    ],
)
def test_a_value_with_marks_of_its_own_around_it_shows_its_placeholder(kind, value):
    assert surrogate(session(), kind, value) == f"[{kind}_1]"


def test_generalising_keeps_the_coarse_part_alone():
    held = session()
    cases = {
        ("AGE", "34"): "30s",
        ("AGE", "97 years"): "90 or over",
        ("AGE", "7"): "under 10",
        ("DATE", "March 12, 1985"): "1985",
        ("DATE_OF_BIRTH", "12.03.1985"): "1985",
        ("LOCATION", "Berlin"): "Germany",
        ("LOCATION", "Smallville"): "a city",
        ("PERSON", "Ann Lee"): "a person",
        ("PASSPORT", "X123"): "a passport",
    }
    for (kind, value), expected in cases.items():
        span = [Span(0, len(value), kind, 0.5)]
        assert masked(held, value, span, "generalise") == expected
    assert not held.entries  # nothing is kept, so nothing comes back
