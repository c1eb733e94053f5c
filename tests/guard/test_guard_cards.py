"""What stands between a name and the number of a card or signature is masked, whatever it is."""

import pytest

from tee_sim.guard.cards import find_card_lines
from tee_sim.guard.scoring import scan_text
from tee_sim.scan_result import Span

NAMED = "Ann Lee"


def lines_of(text):
    start = text.index(NAMED)
    names = [Span(start, start + len(NAMED), "PERSON", 0.5)]
    anchors = [(i, i + 8) for i in range(len(text)) if text.startswith("555-0100", i)]
    return [text[low:high] for low, high in find_card_lines(text, names, anchors)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{NAMED}\nBus driver\n555-0100", ["Bus driver"]),
        (f"Regards,\n\n{NAMED},\n\nHere\nSales clerk\nPhone: 555-0100", ["Here", "Sales clerk"]),
        (f"> {NAMED}\n> *Topcoder*\n>\n> 555-0100", ["Topcoder"]),
        (f"{NAMED}\nnurse\n\nContact details:\nPhone:\n555-0100", ["nurse"]),
        (f"| {NAMED} |\n| U.S. Mint |\n| 555-0100 |", ["U.S. Mint"]),
    ],
)
def test_lines_between_a_name_and_its_number_are_found_without_their_marks(text, expected):
    assert lines_of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        f"{NAMED}\nBus driver",
        f"555-0100\n{NAMED}\nBus driver",
        f"Dear {NAMED}\nYour order\n555-0100",
        f"{NAMED}\nShe was late again. We left.\n555-0100",
        f"{NAMED}\nWhat is the capital of France?\n555-0100",
        f"{NAMED}\none two three four five six seven eight\n555-0100",
        f"{NAMED}\n{'x' * 61}\n555-0100",
        f"{NAMED}\na\nb\nc\nd\n555-0100",
        f"{NAMED}\n\n\n" + "a:\n" * 6 + "555-0100",
    ],
    ids=[
        "no number",
        "number before",
        "greeting",
        "prose",
        "question",
        "many words",
        "long",
        "many",
        "far",
    ],
)
def test_prose_and_lists_that_are_no_card_are_left(text):
    assert lines_of(text) == []


def test_a_firm_that_is_an_ordinary_word_is_masked_in_a_signature_and_nowhere_else():
    signature = "Patient: Ann Lee\n\nAnn Lee\nHere\nPhone: 555-123-4567"
    found = {signature[s.start : s.end]: s.kind for s in scan_text(signature).spans}
    assert found["Here"] == "ORG"
    assert not scan_text("Here\nis\nwhat I mean").spans
