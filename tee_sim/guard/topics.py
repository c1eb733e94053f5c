"""Health and money in a personal frame: "my HIV test", "I was diagnosed with ...", "my salary is".

The same words in a general question ("What is HIV?") are nobody's secret.
"""

from tee_sim.guard.frames import korean
from tee_sim.guard.rules import Ranges, Rule, load, search, value_of

_RULES = load("topics")
_SOMEBODY = _RULES["somebody"][0].pattern


def find_medical(text: str) -> Ranges:
    """Yield conditions, drugs and tests of the speaker or of somebody they know."""
    if _SOMEBODY.search(text):
        yield from _trimmed(_RULES["medical"], text)
    if korean(text):
        yield from _trimmed(_RULES["korean_medical"], text)


def find_financial(text: str) -> Ranges:
    """Yield amounts and straits of the speaker or of somebody they know."""
    if _SOMEBODY.search(text):
        yield from _trimmed(_RULES["financial"], text)
    if korean(text):
        yield from _trimmed(_RULES["korean_money"], text)


def _trimmed(rules: tuple[Rule, ...], text: str) -> Ranges:
    for match in search(rules, text):
        start, _ = value_of(match)
        yield start, start + len(match["value"].rstrip(" .,"))
