"""Where sentences and clauses begin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.privacy.splitting import clause_cuts, outside, pieces, sentence_cuts


def sentences(text):
    return [text[start:end] for start, end in pieces(text, sentence_cuts(text))]


def clauses(text):
    return [text[start:end] for start, end in pieces(text, clause_cuts(text))]


@pytest.mark.parametrize(
    "text",
    [
        "I met Dr. Kim and Mrs. Lee at St. Mary's, e.g. on Friday.",
        "It costs 3.5 dollars, 1,000.50 at most.",
        "Well... maybe not... at all.",
        "J. R. R. Tolkien wrote it.",
        "See https://example.com/a?b=c.d!e for more.",
        "Write to ann.lee@example.co.uk today.",
        'He said "Stop. Wait! Go?" and left.',
        "\u300c行く。来る。\u300dと言った",
        "Run `a. b; c` now.",
        "Version 2.0.1 of U.S. law No. 5 applies.",
        "The meeting is at 5 p.m. on Jan. 5.",
        "a line that goes on\nin the next one",
        "1. one",
    ],
)
def test_nothing_in_here_ends_a_sentence(text):
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("He left at 5 p.m. Then it rained.", ["He left at 5 p.m.", "Then it rained."]),
        ("So do I. Then go.", ["So do I.", "Then go."]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Wait... Then go.", ["Wait...", "Then go."]),
        ("He called no. 5 and no. Then left.", ["He called no. 5 and no.", "Then left."]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("저는 학생이에요. 파이썬이 뭐예요? 네!", ["저는 학생이에요.", "파이썬이 뭐예요?", "네!"]),
        ("東京です。何時ですか\uff1fはい\uff01", ["東京です。", "何時ですか\uff1f", "はい\uff01"]),
        ("我叫王明。你好吗\uff1f", ["我叫王明。", "你好吗\uff1f"]),
        ("ما اسمك؟ أنا علي\u06d4", ["ما اسمك؟", "أنا علي\u06d4"]),
        ("मैं ठीक हूँ। आप?", ["मैं ठीक हूँ।", "आप?"]),
        ("- one\n- two\n* three", ["- one", "- two", "* three"]),
        ("Steps:\n1. mix\n2. bake", ["Steps:", "1. mix", "2. bake"]),
        ("Fix:\n```py\na. b\n\nc! d\n```\nThanks", ["Fix:", "```py\na. b\n\nc! d\n```", "Thanks"]),
        ("Fix:\n    a = 1. \n    b = 2\nThanks", ["Fix:", "a = 1. \n    b = 2", "Thanks"]),
        ("> Hi. I am\n> late. Ole\n\nReply?", ["> Hi. I am\n> late. Ole", "Reply?"]),
        ("first\n\nsecond", ["first", "second"]),
        ("unclosed ```a. b", ["unclosed", "```a. b"]),
    ],
)
def test_sentences_are_found_in_any_script_and_around_blocks(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my name is Ann, what is Python?", ["my name is Ann,", "what is Python?"]),
        ("I am Ann and what is Python?", ["I am Ann", "and what is Python?"]),
        ("red, green, and blue", ["red, green, and blue"]),
        ("It costs 1,000 dollars", ["It costs 1,000 dollars"]),
        ("I am ill - how do I rest?", ["I am ill -", "how do I rest?"]),
        ("저는 김민준인데 파이썬이 뭐예요?", ["저는 김민준인데", "파이썬이 뭐예요?"]),
        ("私は田中です、東京はどこ\uff1f", ["私は田中です、", "東京はどこ\uff1f"]),
        ("أنا علي، ما هي بايثون؟", ["أنا علي،", "ما هي بايثون؟"]),
    ],
)
def test_clauses_are_cut_before_another_predicate(text, expected):
    assert clauses(text) == expected


texts = st.text(
    st.sampled_from("aB .!?,;:\n\"`>-1@/\u3002\uff1f\u061f\uac00\uace0e\u0301\U0001f600'"),
    max_size=200,
)


@settings(deadline=None)
@given(texts | st.text(max_size=200))
def test_pieces_are_ordered_disjoint_and_leave_only_blanks(text):
    for cuts in (sentence_cuts(text), clause_cuts(text)):
        assert cuts == sorted(set(cuts))
        assert all(0 < cut < len(text) for cut in cuts)
        found = pieces(text, cuts)
        at = 0
        for start, end in found:
            assert at <= start < end
            assert text[at:start].strip() == ""
            at = end
        assert text[at:].strip() == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 50)), st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9))))
def test_a_cut_stays_only_outside_every_range(cuts, shapes):
    ranges = [(start, start + size) for start, size in shapes]
    kept = outside(sorted(cuts), ranges)
    expected = [cut for cut in sorted(cuts) if not any(s < cut < e for s, e in ranges)]
    assert kept == expected


def test_the_blanks_of_an_uncut_range_are_kept():
    assert pieces("a. b", [2], [(2, 4)]) == [(0, 2), (2, 4)]
    assert pieces("  \n", [], []) == [(0, 3)]
    assert pieces("", [], []) == []
