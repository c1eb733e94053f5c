"""Postal addresses: a number with a street word, boxes, units, post codes; and places of home."""

import re

from tee_sim.guard.frames import HANGUL
from tee_sim.guard.rules import Ranges, find, load, patterns, search, value_of
from tee_sim.guard.words import entries

_RULES, _KOREAN = load("addresses"), load("korean")
_DIGIT = re.compile(r"\d")
_FAMOUS, _WORDS_AFTER = patterns(_RULES, "famous words_after")
_NOT_PLACES = frozenset(entries("no_places"))


def find_addresses(text: str) -> Ranges:
    """Yield addresses part by part: street and number, box, unit, city with code, post code.

    Korean ones are by road (since 2014) or by lot, with the flat.
    """
    for match in search(_RULES["stated"], text):
        start, _ = value_of(match)
        value = _WORDS_AFTER.sub("", match["value"]).rstrip(" ,.")
        if _DIGIT.search(value):
            yield start, start + len(value)
    for match in search(_RULES["part"], text):
        if not _FAMOUS.match(match.group()):
            yield value_of(match)
    if HANGUL.search(text):
        yield from find(_KOREAN["addresses"], text)


def find_homes(text: str) -> Ranges:
    """Yield places that somebody lives in or comes from."""
    for match in search(_RULES["home"], text):
        if match["value"].split()[0].strip(",") not in _NOT_PLACES:
            yield value_of(match)
    for start, end in find(_KOREAN["home"], text):
        if start < end:
            yield start, end
