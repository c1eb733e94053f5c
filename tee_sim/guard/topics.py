"""Health and money in a personal frame: "my HIV test", "I was diagnosed with ...", "my salary is".

The same words in a general question ("What is HIV?") are nobody's secret.
"""

from tee_sim.guard.frames import hinted
from tee_sim.guard.rules import Ranges, Rule, load, patterns, search, value_of
from tee_sim.guard.words import entries

_RULES = load("topics")
_SOMEBODY, _ICD, _MONEY = patterns(_RULES, "somebody icd money_hint")
# Some piece of every value that the patterns of health can find
_LISTS = (*entries("conditions"), *entries("drugs"), *entries("health_hints"))
_HEALTH_HINTS = (*(entry.lower().replace("-", " ") for entry in _LISTS), "pt ")


def find_medical(text: str) -> Ranges:
    """Yield conditions, drugs and tests of the speaker or of somebody they know."""
    if _SOMEBODY.search(text) and (
        hinted(text.replace("-", " "), _HEALTH_HINTS) or _ICD.search(text)
    ):
        yield from _trimmed(_RULES["medical"], text)
    if not text.isascii():
        yield from _trimmed(_RULES["korean_medical"], text)


def find_financial(text: str) -> Ranges:
    """Yield amounts and straits of the speaker or of somebody they know."""
    if _SOMEBODY.search(text) and _MONEY.search(text):
        yield from _trimmed(_RULES["financial"], text)
    if not text.isascii():
        yield from _trimmed(_RULES["korean_money"], text)


def _trimmed(rules: tuple[Rule, ...], text: str) -> Ranges:
    for match in search(rules, text):
        start, _ = value_of(match)
        yield start, start + len(match["value"].rstrip(" .,"))
