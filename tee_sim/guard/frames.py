"""What stands around a value: words near it, and whether somebody speaks of themselves."""

import re
from collections.abc import Iterable

from tee_sim.guard.rules import load, patterns

_BEFORE, _AFTER = 48, 24
(PERSONAL,) = patterns(load("frames"), "personal")


def hinted(text: str, hints: Iterable[str]) -> bool:
    """Whether one of some small-letter pieces occurs: a cheap look before an expensive pattern."""
    lowered = text.lower()
    return any(hint in lowered for hint in hints)


def near(context: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether a context word stands up to 48 characters before a value or 24 after it."""
    return (
        context.search(text, max(0, start - _BEFORE), start) is not None
        or context.search(text, end, end + _AFTER) is not None
    )


def personal(text: str, start: int, end: int, reach: int = 100) -> bool:
    """Whether somebody speaks of themselves within `reach` characters."""
    return PERSONAL.search(text, max(0, start - reach), end + reach) is not None
