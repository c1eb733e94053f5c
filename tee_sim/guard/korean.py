"""Korean names and employers: a surname with a title, a relation, a number or "my name is"."""

from tee_sim.guard.frames import HANGUL
from tee_sim.guard.rules import Ranges, find, load, search, value_of
from tee_sim.guard.words import entries

_RULES = load("korean")
_NO_NAMES = frozenset(entries("korean_no_names"))


def find_korean_names(text: str) -> Ranges:
    """Yield Korean names that a text presents as somebody it knows."""
    if HANGUL.search(text) is None:
        return
    for match in search(_RULES["names"], text):
        name = match["value"]
        if name not in _NO_NAMES and (len(name) == 1 or name[:2] not in _NO_NAMES):
            yield value_of(match)


def find_korean_employers(text: str) -> Ranges:
    """Yield organisations that a Korean text calls somebody's employer or school."""
    return find(_RULES["employer"], text)
