"""From finds to spans: union, joining of addresses, further mentions; rules and model alike."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim.guard.detect import complete, find_spans
from tee_sim.guard.merge import MAX_REPEATED_VALUES, join_places, mentions, merge
from tee_sim.guard.recognizers import RECOGNIZERS
from tee_sim.guard.rules import Rule, load, search, value_of
from tee_sim.guard.scoring import scan_text
from tee_sim.scan_result import ENTITY_KINDS, Span

SEVERITY = {row.kind: row.severity for row in RECOGNIZERS}


def span(start, end, kind):
    return Span(start, end, kind, SEVERITY[kind])


SPANS = st.builds(
    lambda start, length, kind: span(start, start + length, kind),
    st.integers(0, 40),
    st.integers(1, 12),
    st.sampled_from(ENTITY_KINDS),
)


@settings(deadline=None)
@given(st.lists(SPANS, max_size=8), st.lists(SPANS, max_size=8))
def test_merged_spans_cover_what_both_sides_found_and_nothing_else(rules, model):
    merged = merge(rules, model)
    covered = {i for s in [*rules, *model] for i in range(s.start, s.end)}
    assert {i for s in merged for i in range(s.start, s.end)} == covered
    assert all(a.end <= b.start for a, b in pairwise(merged))
    assert merge(merged) == merged


@settings(deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=6))
def test_an_overlap_has_the_kind_of_its_most_severe_part(spans):
    for joined in merge(spans):
        parts = [s for s in spans if s.start < joined.end and joined.start < s.end]
        assert joined.severity == max(s.severity for s in parts)
        assert joined.kind in {s.kind for s in parts if s.severity == joined.severity}


def test_among_equals_the_table_decides_and_not_the_order_given():
    a, b = Span(0, 5, "US_SSN", 0.95), Span(2, 8, "API_KEY", 0.95)
    assert merge([a], [b]) == merge([b], [a]) == (Span(0, 8, "API_KEY", 0.95),)


def test_model_spans_join_in():
    text = "Ann Lee wrote to bob@example.com"
    spans = complete(text, find_spans(text), [span(0, 7, "PERSON")])
    assert [(s.kind, text[s.start : s.end]) for s in spans] == [
        ("PERSON", "Ann Lee"),
        ("EMAIL", "bob@example.com"),
    ]


def test_parts_of_an_address_become_one():
    text = "12 Oak Street, Springfield,\nIL 62704"
    parts = [span(0, 13, "ADDRESS"), span(15, 26, "LOCATION"), span(28, 36, "ADDRESS")]
    assert join_places(text, parts) == (span(0, 36, "ADDRESS"),)


@pytest.mark.parametrize("gap", [" and ", " in the city of ", ": "])
def test_words_between_places_keep_them_apart(gap):
    text = f"12 Oak Street{gap}Rome"
    parts = (span(0, 13, "ADDRESS"), span(13 + len(gap), len(text), "LOCATION"))
    assert join_places(text, parts) == parts


def test_two_cities_are_not_an_address():
    parts = (span(0, 4, "LOCATION"), span(6, 11, "LOCATION"))
    assert join_places("Rome, Paris", parts) == parts


@pytest.mark.parametrize(
    "text,expected",
    [
        ("My name is Ann Lee. ANN LEE and Ann, not Annex", ["Ann Lee", "ANN LEE", "Ann"]),
        ("My name is Will Lee. Will you and will I help Lee?", ["Will Lee", "Lee"]),
        ("Write to ann.lee@x.org: Lee is in, sunlee too", ["ann.lee@x.org", "Lee"]),
        ("I work for Acme Corp. ACME CORP pays; Acme Corporal", ["Acme Corp.", "ACME CORP"]),
        ("I'm 34 years old, chapter 34", ["34"]),
    ],
)
def test_a_found_value_is_found_at_its_other_mentions(text, expected):
    found = [text[s.start : s.end] for s in scan_text(text).spans]
    assert found[: len(expected)] == expected and len(found) <= len(expected) + 1


def test_korean_particles_do_not_hide_a_mention():
    text = (
        "\uc81c \uc774\ub984\uc740 \uae40\ubbfc\uc218\uc785\ub2c8\ub2e4. \uae40\ubbfc\uc218"
        "\uac00 \uac14\ub2e4"
    )
    assert [text[s.start : s.end] for s in scan_text(text).spans] == ["\uae40\ubbfc\uc218"] * 2


def test_a_name_beside_an_identifier_is_a_person():
    text = "Ann Lee, 536-22-1234"
    assert [s.kind for s in scan_text(text).spans] == ["PERSON", "US_SSN"]
    assert scan_text("Ann Lee reads a book").spans == ()


def test_mentions_stop_at_a_limit():
    text = " ".join(f"u{i}@example.com" for i in range(MAX_REPEATED_VALUES + 1))
    spans = complete(text, find_spans(text))
    assert len(spans) == MAX_REPEATED_VALUES + 1 and mentions(text, spans) == []


def test_lengthening_letters_do_not_shift_mentions():
    text = "\u0130\u0130 my name is Ann Lee, ann lee"
    found = [text[s.start : s.end] for s in scan_text(text).spans]
    assert found == ["Ann Lee", "ann lee"]


def test_pattern_files_have_parts_hints_and_continued_lines(tmp_path, monkeypatch):
    from tee_sim.guard import rules

    (tmp_path / "demo.txt").write_text(
        "# comment\nWORD := [a-z]{1,5}\ngreet [hi"
        "|yo] :: hi\n    \\s(?P<value>{WORD})\ngreet :: {words:x}\n"
    )
    monkeypatch.setattr(rules, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(rules, "alternatives", lambda name: f"<{name}>")
    (first, second) = load("demo")["greet"]
    assert first.hints == (("hi", "yo"),) and second.hints == () and second.pattern.pattern == "<x>"
    (match,) = search((first,), "say hi bob")
    assert value_of(match) == (7, 10)
    assert list(search((Rule((("yo",),), first.source),), "say hi bob")) == []


@pytest.mark.parametrize("line", ["greet: hi", "greet ::", "greet :: {MISSING}", "greet :: ("])
def test_a_malformed_pattern_file_is_refused(tmp_path, monkeypatch, line):
    from tee_sim.guard import rules

    (tmp_path / "demo.txt").write_text(line + "\n")
    monkeypatch.setattr(rules, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises((ValueError, KeyError, rules.re.error)):
        load("demo")


def test_a_missing_pattern_file_is_an_error():
    with pytest.raises(OSError):
        load("no-such-rules")
