"""Dates of birth and ages that a text gives of a person."""

import re

from tee_sim.guard.checksums import is_date
from tee_sim.guard.rules import Ranges, find, load, patterns, search, value_of

_RULES = load("dates")
(_FORMER,) = patterns(_RULES, "former")


def find_births(text: str) -> Ranges:
    """Yield dates that are given as somebody's date of birth; nobody born before 1920 is meant."""
    for match in search(_RULES["birth"], text):
        value = match["value"].rstrip()
        numbers = [int(n) for n in re.findall(r"\d+", value)]
        if not _FORMER.search(value) and (len(numbers) != 3 or _exists(numbers)):
            start, _ = value_of(match)
            yield start, start + len(value)


def _exists(numbers: list[int]) -> bool:
    """Whether three numbers are a day in some usual order."""
    a, b, c = numbers
    orders = (a, b, c), (c, b, a), (c, a, b)
    return any(is_date(y if y > 99 else 2000 + y, month, day) for y, month, day in orders)


def find_ages(text: str) -> Ranges:
    """Yield ages of the speaker, of a relation, or of a patient; not of people in a story."""
    return find(_RULES["ages"], text)
