"""Two parts of an answer become one: order, repetitions, contradictions, and nothing added."""

import itertools
import random
from collections import Counter

import pytest

from ptmo_secure.hybrid.aggregate import Merger, merged

LOCAL = "Your appointment is on Monday at 3 pm. Ada is your doctor."


def filtered(local, cloud):
    return merged(local, cloud, local_first=True).removeprefix(local).strip()


def test_the_parts_stand_in_the_order_that_is_asked_for():
    assert merged("Here.", "There.", local_first=True) == "Here.\n\nThere."
    assert merged("Here.", "There.", local_first=False) == "There.\n\nHere."
    assert merged("", " There.", local_first=True) == " There."
    assert merged("Here.", "", local_first=False) == "Here."


@pytest.mark.parametrize(
    "said",
    [
        "Your appointment is on Monday at 3 pm.",
        "YOUR appointment is on monday, at 3 pm!",
        "Ada is your doctor.",
        "Your appointment at 3 pm is on Monday.",
    ],
)
def test_what_the_device_said_is_not_said_twice(said):
    assert filtered(LOCAL, f"{said} Bread takes two hours.") == "Bread takes two hours."


@pytest.mark.parametrize(
    "said",
    [
        "Your appointment is on Tuesday.",
        "I think that your appointment was at noon.",
        "your  Appointment will be next week.",
    ],
)
def test_on_private_facts_the_devices_part_wins(said):
    merger = Merger(LOCAL)
    assert merger.feed(f"{said} Bread takes two hours.") + merger.finish() != ""
    assert merger.overruled == 1
    assert filtered(LOCAL, f"{said} Bread takes two hours.") == "Bread takes two hours."


@pytest.mark.parametrize(
    "said",
    [
        "Your appointment is on Monday.",  # less of the same
        "The appointment is on Tuesday.",  # nobody's
        "Your oven is hot.",
        "My appointment is on Tuesday.",
        "Ada is a programming language.",
        "At 4 pm on Monday your bread is ready.",
    ],
)
def test_what_neither_repeats_nor_contradicts_stays(said):
    assert filtered(LOCAL, said) == said


def test_figures_that_differ_make_two_sentences_of_one():
    local = "The bread has to bake for 40 minutes."
    assert filtered(local, "The bread has to bake for 45 minutes.") != ""


def test_code_is_never_cut():
    local = "Your name is Ada."
    code = 'Do this:\n```python\nprint("a")\nyour_name = "Bob"\n# Your name is Bob.\n```\nDone.'
    assert filtered(local, code) == code


def test_without_a_part_of_the_devices_the_clouds_passes_as_it_comes():
    merger = Merger("")
    assert [merger.feed(piece) for piece in ("a", " b", "c.")] == ["a", " b", "c."]


def test_however_a_stream_is_cut_the_answer_is_the_same():
    cloud = (
        "Your appointment is on Friday. Bread takes two hours. Ada is your doctor.\n\n"
        "- flour\n- water, e.g. warm\n\nThen bake it! Is it done?"
    )
    whole = merged(LOCAL, cloud, local_first=True)
    draw = random.Random(3)
    for _ in range(200):
        cuts = sorted(draw.sample(range(1, len(cloud)), draw.randint(1, 20)))
        merger, told = Merger(LOCAL), ""
        for low, high in itertools.pairwise([0, *cuts, len(cloud)]):
            told += merger.feed(cloud[low:high])
        told += merger.finish()
        assert f"{LOCAL}\n\n{told.strip()}" == whole, cuts


def test_an_answer_says_nothing_that_its_parts_do_not():
    draw = random.Random(5)
    words = ["your", "name", "is", "Ada", "bread", ".", "!", "\n", "```", "Bob", "3", "?"]
    for _ in range(500):
        local, cloud = (" ".join(draw.choices(words, k=draw.randint(0, 30))) for _ in "ab")
        told = merged(local, cloud, local_first=draw.random() < 0.5)
        assert Counter(told.split()) <= Counter(local.split()) + Counter(cloud.split())
        assert Counter(local.split()) <= Counter(told.split())
