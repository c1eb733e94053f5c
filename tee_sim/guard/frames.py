"""What stands around a value: words near it, and whether somebody speaks of themselves."""

import re

from tee_sim.guard.rules import load, patterns

_BEFORE, _AFTER = 48, 24
HANGUL, _KOREAN = re.compile("[\uac00-\ud7a3]"), re.compile("[\uac00-\ud7a3]|ADHD|HIV")
(PERSONAL,) = patterns(load("frames"), "personal")


def korean(text: str) -> bool:
    """Whether the patterns of Korean situations may match: two conditions are no Hangul."""
    return not text.isascii() and _KOREAN.search(text) is not None


def near(context: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether a context word stands up to 48 characters before a value or 24 after it."""
    return (
        context.search(text, max(0, start - _BEFORE), start) is not None
        or context.search(text, end, end + _AFTER) is not None
    )


def personal(text: str, start: int, end: int, reach: int = 100) -> bool:
    """Whether somebody speaks of themselves within `reach` characters."""
    return PERSONAL.search(text, max(0, start - reach), end + reach) is not None
