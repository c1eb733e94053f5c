"""Numbers that a text calls somebody's: "my policy number is ...", "MRN: ...", "call me at ...".

No check digit decides here, so a mistyped card or a foreign licence is masked as well: what stands
behind "my card number is" is somebody's, valid or not.
"""

from tee_sim.guard.numbers import digits_of
from tee_sim.guard.rules import Ranges, load, search, value_of

_RULES = load("stated_numbers")
_YEARS = _RULES["years"][0].pattern
_MIN_DIGITS = 4


def find_stated_numbers(text: str) -> Ranges:
    """Yield numbers that a text calls somebody's card, policy, record, membership, ..."""
    for match in search(_RULES["number"], text):
        if len(digits_of(match["value"])) >= _MIN_DIGITS:
            yield value_of(match)


def find_stated_phones(text: str) -> Ranges:
    """Yield phone numbers of any plan after words that announce one, or with a trunk prefix."""
    for match in search(_RULES["phone"], text):
        if 7 <= len(digits_of(match["value"])) <= 21 and not _YEARS.match(match["value"]):
            yield value_of(match)
    for match in search(_RULES["trunk"], text):
        least = 9 if match["s"] else 7  # grouped digits that begin with a 0: shorter ones are dates
        if least <= len(digits_of(match.group())) <= 17:
            yield match.span()
