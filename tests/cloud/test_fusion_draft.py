"""A cloud's path: where an answer stands on it, and what a hostile one can do."""

import math

import pytest

from ptmo_secure.cloud.fusion.draft import MAX_PATH_BYTES, Draft, Place
from ptmo_secure.cloud.types import Position, TokenLogprob
from tests.cloud.fusion_doubles import position, token

RED = position((b" red", 0.8), (b" old", 0.1))
PATH = (position((b" big", 0.9)), RED, position((b" dog", 0.7)))


def draft(*positions, anchor=0, finish=None, most=16):
    made = Draft(anchor, most)
    made.extend(positions)
    if finish is not None:
        made.finish(finish)
    return made


@pytest.mark.parametrize(
    ("answer", "place", "first"),
    [
        (b"", Place.AT, b" big"),
        (b" big", Place.AT, b" red"),
        (b" big red", Place.AT, b" dog"),
        (b" bi", Place.INSIDE, None),
        (b" big re", Place.INSIDE, None),
        (b" big red dog", Place.PENDING, None),
        (b" big red dogs", Place.PENDING, None),  # it may come to that yet
        (b" big old", Place.LEFT, None),
        (b" a", Place.LEFT, None),
    ],
)
def test_the_place_of_an_answer_while_the_path_grows(answer, place, first):
    found = draft(*PATH).at(answer)
    assert found.place is place
    assert (found.tokens[0].bytes if found.tokens else None) == first


@pytest.mark.parametrize(
    ("reason", "place"), [("length", Place.OVER), ("stop", Place.STOPPED), ("x", Place.OVER)]
)
def test_the_place_at_and_behind_the_end_of_a_path_that_is_complete(reason, place):
    whole = draft(*PATH, finish=reason)
    assert whole.at(b" big red dog").place is place
    assert whole.at(b" big red dogs").place is Place.LEFT
    assert whole.at(b" big").place is Place.AT


def test_a_path_begins_at_its_anchor():
    later = draft(*PATH, anchor=7)
    assert later.at(b"what is it").place is Place.LEFT
    assert later.at(b"what is" + b" big").place is Place.AT
    assert later.at(b"what is").tokens[0].bytes == b" big"


def test_a_path_that_runs_through_bytes_chosen_already_is_read_behind_them():
    """As after white space that a chat template took away."""
    through = draft(position((b"\n\n", 0.9)), position((b"Next", 0.9)), anchor=3)
    assert through.at(b"End\n\n").tokens[0].bytes == b"Next"
    assert through.at(b"End\n").place is Place.INSIDE
    assert through.at(b"End  ").place is Place.LEFT


def test_an_end_that_is_listed_as_a_token_stands_at_the_end_of_the_path():
    ended = draft(PATH[0], position((b"", 0.95), (b" red", 0.01)), finish="stop")
    found = ended.at(b" big")
    assert found.place is Place.AT
    assert found.tokens[0].bytes == b""


def test_a_position_with_no_alternatives_has_the_chosen_token_for_one():
    chosen = token(b" big", 0.9)
    assert draft(Position(chosen, ())).at(b"").tokens == (chosen,)


@pytest.mark.parametrize(
    "bad",
    [
        position((b" red", 0.9), (b" old", 0.2)),
        Position(token(b" red", 0.5), (TokenLogprob(" red", b" red", math.nan),)),
        position((b"x" * 1000, 0.5)),
    ],
    ids=["mass above 1", "NaN", "a token of 1000 bytes"],
)
def test_a_path_ends_before_a_position_that_cannot_be_true(bad):
    broken = draft(PATH[0])
    assert not broken.extend((bad, PATH[2]))
    assert broken.failure == "malformed"
    assert broken.at(b"").place is Place.AT
    assert broken.at(b" big").place is Place.OVER
    broken.finish("stop")  # the first end counts
    assert broken.at(b" big").place is Place.OVER


def test_more_positions_than_were_asked_for_are_dropped():
    short = draft(*PATH, most=2)
    assert short.at(b" big").place is Place.AT
    assert short.at(b" big red").place is Place.PENDING


def test_a_path_has_a_longest_length_whatever_a_server_sends():
    long = Draft(0, 10**9)
    each = position((b"y" * 256, 0.5))
    sent = 0
    while long.extend((each,) * 8) and sent < 10**6:
        sent += 8
    assert long.failure == "malformed"
    assert sent * 256 <= MAX_PATH_BYTES + 4096


def test_an_answer_without_logprobs_is_told_apart_from_one_that_ended_at_once():
    assert draft(finish="length").failure == "no_logprobs"
    silent = Draft(0, 8)
    silent.finish("stop", said=True)
    assert silent.failure == "no_logprobs"
    assert silent.at(b"").place is Place.OVER
    ended = draft(finish="stop")
    assert ended.failure is None
    assert ended.at(b"").place is Place.STOPPED


def test_what_came_before_a_failure_stays_valid():
    broken = draft(*PATH)
    broken.fail("failed")
    assert broken.failure == "failed"
    assert not broken.open
    assert broken.at(b" big").place is Place.AT
    assert broken.at(b" big red dog").place is Place.OVER


def test_a_cancelled_path_asks_for_no_more():
    left = draft(PATH[0])
    left.cancel()
    assert left.extend((PATH[1],)) is False


def test_cancelling_ends_the_request_under_way_and_no_other():
    ended = []
    under_way, late, done = draft(PATH[0]), draft(PATH[0]), draft(*PATH, finish="length")
    under_way.on_cancel(lambda: ended.append("under way"))
    done.on_cancel(lambda: ended.append("done"))
    late.cancel()
    late.on_cancel(lambda: ended.append("cancelled before it began"))
    for each in (under_way, done):
        each.cancel()
    assert ended == ["cancelled before it began", "under way"]
