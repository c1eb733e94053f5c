"""Pieces never split a character and never hold part of a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.streaming import StopMatcher, TextStream
from ptmo_secure.errors import InputError

CHUNKS = st.lists(st.integers(1, 5), min_size=1, max_size=60)


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[position : position + size])
        position, turn = position + size, turn + 1
    return pieces


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])), sizes=CHUNKS)
@settings(max_examples=200, deadline=None)
def test_pieces_join_to_the_text_however_the_bytes_are_cut(text: str, sizes: list[int]) -> None:
    stream = TextStream()
    pieces = [stream.push(chunk) for chunk in _cut(text.encode(), sizes)] + [stream.finish()]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(
    text=st.text(alphabet="ab<|>é", max_size=40),
    stops=st.lists(st.text(alphabet="ab<|>é", min_size=1, max_size=4), max_size=3),
    sizes=CHUNKS,
)
@settings(max_examples=500, deadline=None)
def test_the_text_ends_before_the_first_stop_string(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    stream = TextStream(stops)
    out = ""
    for chunk in _cut(text.encode(), sizes):
        out += stream.push(chunk)
        if stream.stopped:
            break
    out += stream.finish()
    hits = [index for stop in stops if (index := text.find(stop)) >= 0]
    assert out == (text[: min(hits)] if hits else text)
    assert stream.stopped == bool(hits)


def test_a_split_character_is_held_until_it_is_whole() -> None:
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    stream = TextStream()
    assert stream.push(b"a\xff") == "a\ufffd"
    assert stream.push(b"\xf0\x9f") == ""
    assert stream.finish() == "\ufffd"


def test_a_possible_stop_string_is_held_back_and_released() -> None:
    stream = TextStream(["STOP"])
    assert stream.push(b"go ST") == "go "
    assert stream.push(b"AR") == "STAR"
    assert stream.push(b" STO") == " "
    assert stream.push(b"P more") == ""
    assert stream.stopped
    assert stream.push(b"ignored") == ""
    assert stream.finish() == ""


def test_a_held_prefix_comes_out_at_the_end() -> None:
    stream = TextStream(["STOP"])
    assert stream.push(b"no ST") == "no "
    assert stream.finish() == "ST"
    assert not stream.stopped


@pytest.mark.parametrize("stops", [[""], [None], ["x"] * 65])
def test_useless_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(InputError, match="stop string"):
        StopMatcher(stops)


def test_one_string_is_one_stop() -> None:
    assert StopMatcher("ab").push("xaby") == "x"
