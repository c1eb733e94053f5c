"""A pattern is tried only where a match of it can begin, and finds there what it finds anywhere."""

import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tee_sim.guard import rules
from tee_sim.guard.rules import FOLDS, Piece, Rule, search
from tests.guard import leads
from tests.guard.test_guard_kinds import FOUND

LED = [Rule((), rule.source) for rule in leads.all_rules() if rule.leads]
EVERY_CHAR = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
# What leads have to tell apart: cases that have no small form of their own, digits and blanks of
# other scripts, what stands before a word without being a part of it
ODD = [
    "\u017f",
    "\u212a",
    "\u0130",
    "\u0131",
    "\u00df",
    "\uff13",
    "\u0663",
    "\u00a0",
    "\u2028",
    "\n",
]
ATOMS = st.sampled_from(
    [
        *ODD,
        *" .,'@_-+(:/#=",
        "my ",
        "I",
        "We ",
        "x",
        "MY_",
        "5",
        "(212) 555-0123",
        "na\u017fme",
        "\ub0b4 ",
    ]
)


def spans(matches):
    return [match.span() for match in matches]


def differing(text):
    """The patterns that find something else where they are led."""
    piece = Piece(text)
    return [
        rule.pattern.pattern
        for rule in LED
        if spans(search([rule], piece)) != spans(rule.pattern.finditer(text))
    ]


def test_the_leads_in_the_tree_are_those_of_its_patterns():
    assert leads.FILE.read_text(encoding="utf-8") == leads.written()  # else: see the module
    assert len(LED) > 200


def test_where_a_pattern_is_led_it_finds_what_it_finds_anywhere():
    texts = [row[1] for row in FOUND]
    texts += [" ".join(texts[at : at + 20]) for at in range(0, len(texts), 20)]
    assert [found for text in texts for found in differing(text)] == []


@given(st.lists(st.one_of(ATOMS, st.sampled_from([row[1] for row in FOUND]), st.characters())))
def test_leads_hold_in_any_mixture_of_values_signs_and_scripts(parts):
    assert differing("".join(parts)) == []


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_leads_hold_where_a_text_begins_or_ends_inside_a_value(cut):
    for row in FOUND:
        assert differing(row[1][cut:]) == [] and differing(row[1][:-cut]) == []


def test_characters_that_a_pattern_takes_for_the_same_are_folded_to_the_same():
    everything = "".join(EVERY_CHAR)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        alike = re.findall(letter, everything, re.IGNORECASE)
        assert {FOLDS[ord(char)] for char in alike} == {letter}
    assert {FOLDS[ord(char)] for char in re.findall(r"\d", everything)} == {"0"}
    assert {FOLDS[ord(char)] for char in re.findall(r"\s", everything)} == {" "}
    assert all(len(FOLDS[ord(char)]) == 1 for char in EVERY_CHAR)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"(?i)\b(?:my|our)\s", ["my ", "our"]),
        (r"(?<![A-Za-z\d])\d{2}-\d", ["00-"]),
        (r"(?:^|[\n,])x", [" x", ",x", "x"]),
        (r"\b[A-Z][a-z]+", ["^"]),
        (r"(?<!\d)(?:19|20)?\d\ub144", ["000", "0\ub144"]),
        (r"my", []),  # also inside a word
        (r"(?<!\d)my", []),
        (r"\b\w+ly\b", []),
        (r"\s\d", [" 0"]),
        (r"\s[a-z]", []),
        (r"(?:my)?", []),
    ],
)
def test_leads_are_the_first_three_characters_and_none_where_a_match_may_begin_anywhere(
    pattern, expected
):
    assert leads.leads_of(re.compile(pattern)) == expected


def test_a_pattern_without_leads_and_a_long_text_are_searched_everywhere():
    rule = next(rule for rule in LED if rule.pattern.flags & re.IGNORECASE and "my " in rule.leads)
    long = "my password " * 6000
    assert len(long) > rules._INDEXED_CHARS
    assert spans(search([rule], long)) == spans(rule.pattern.finditer(long))
    anywhere = Rule((), "assword")
    assert not anywhere.leads and spans(search([anywhere], "my password")) == [(4, 11)]


def test_a_pattern_is_compiled_when_a_text_first_has_a_place_for_it():
    led = next(rule for rule in LED if "my " in rule.leads)
    rule = Rule((), led.source)
    assert list(search([rule], "nothing here")) == [] and "pattern" not in vars(rule)
    list(search([rule], "in my house"))
    assert "pattern" in vars(rule)


def test_a_changed_pattern_has_no_leads_of_the_old_one():
    known = json.loads(leads.FILE.read_text(encoding="utf-8"))
    assert rules.digest(LED[0].source) in known
    assert rules.digest(LED[0].source + "x") not in known
    assert rules.digest("(?a)" + LED[0].source) not in known
