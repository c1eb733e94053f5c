"""The language of the templates, and how pieces become labelled texts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.privacy.synth.example import Example, Label, Piece, join
from ptmo_secure.privacy.synth.grammar import Choice, Slot, expand, parse, particle, slots
from ptmo_secure.privacy.synth.styles import restyle


def fill(slot: str) -> Piece:
    return Piece(slot.upper(), "KIND")


def text_of(template: str, seed: int = 0) -> str:
    return join(expand(parse(template), fill, random.Random(seed)))[0]


def test_slots_are_filled_and_labelled_and_public_ones_are_not_labelled() -> None:
    pieces = expand(parse("a {x} b {!y}."), fill, random.Random(0))
    assert join(pieces) == ("a X b Y.", (Label(2, 3, "KIND"),))


def test_one_of_the_alternatives_is_chosen_and_they_nest() -> None:
    seen = {text_of("[a|b[c|]|]!", seed) for seed in range(100)}
    assert seen == {"a!", "bc!", "b!", "!"}


def test_backslashes_and_bars_outside_of_brackets_stand_for_themselves() -> None:
    assert text_of(r"a | b\n\[c\|d\]\{e\}\\") == "a | b\n[c|d]{e}\\"


@pytest.mark.parametrize("template", ["[a|b", "a]", "{x", "[a|{b]"])
def test_an_unclosed_bracket_is_refused_with_the_template(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        parse(template)


def test_slots_are_found_inside_alternatives() -> None:
    nodes = parse("{a} [{!b}|[{c}]]")
    assert isinstance(nodes[2], Choice)
    assert slots(nodes) == {Slot("a", False), Slot("b", True), Slot("c", False)}


@pytest.mark.parametrize(
    ("pair", "before", "expected"),
    [
        ("은/는", "김민준", "은"),
        ("은/는", "이하나", "는"),
        ("이/가", "철수 ", "가"),
        ("을/를", "국물", "을"),
        ("으로/로", "서울", "로"),  # a final rieul takes 로
        ("으로/로", "부산", "으로"),
        ("이/가", "010-1234-5678", "이"),  # 팔
        ("이/가", "010-1234-5672", "가"),  # 이
        ("으로/로", "1", "로"),  # 일 ends in rieul
        ("이/가", "Kim", "이"),
        ("이/가", "", "가"),
    ],
)
def test_korean_particles_fit_the_sound_before_them(pair: str, before: str, expected: str) -> None:
    assert particle(pair, before) == expected


def test_white_space_at_the_ends_of_a_value_stays_outside_of_its_span() -> None:
    assert join([Piece("x"), Piece(" a b\n", "ADDRESS")]) == ("x a b\n", (Label(2, 5, "ADDRESS"),))
    assert join([Piece(" \n", "ADDRESS")]) == (" \n", ())


def test_folding_leaves_core_kinds_and_maps_the_others() -> None:
    spans = (Label(0, 1, "DATE"), Label(1, 2, "NATIONALITY"), Label(2, 3, "PERSON"))
    folded = Example("abc", spans, "t", "private", "ko").folded()
    assert [span.kind for span in folded.spans] == ["DATE_OF_BIRTH", "LOCATION", "PERSON"]
    assert (folded.text, folded.frame, folded.language) == ("abc", "private", "ko")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=12), st.sampled_from([None, "PERSON", "SECRET"]))),
    st.integers(0, 500),
)
def test_restyled_pieces_keep_their_labels_and_exact_values(
    given_pieces: list[tuple[str, str | None]], seed: int
) -> None:
    pieces = [Piece(*piece) for piece in given_pieces]
    changed = restyle(pieces, random.Random(seed))
    labelled = [p for p in changed if p.kind]
    assert [p.kind for p in labelled] == [p.kind for p in pieces if p.kind]
    secrets = [p.text for p in pieces if p.kind == "SECRET"]
    assert [p.text for p in labelled if p.kind == "SECRET"] == secrets


def test_a_text_is_retyped_in_every_way_that_is_promised() -> None:
    pieces = [Piece("Please call ", None), Piece("Ana Ruiz", "PERSON"), Piece(" today.", None)]
    seen = {join(restyle(pieces, random.Random(seed)))[0] for seed in range(3000)}
    for expected in (
        "Please call Ana Ruiz today.",
        "please call ana ruiz today.",
        "PLEASE CALL ANA RUIZ TODAY.",
        "please call Ana Ruiz today.",
        "Please call Ana Ruiz today",
    ):
        assert expected in seen
    assert any(text.endswith("Thanks!") for text in seen)
    assert any(text.startswith("Hello, ") for text in seen)
