"""What stands around a value: words near it, and whether somebody speaks of themselves."""

import re
from collections.abc import Iterable

_BEFORE, _AFTER = 48, 24
# First person, or somebody to be reached: a text about real people rather than about the world
PERSONAL = re.compile(
    r"\b(?:I|I['\u2019]\w{1,2}|[Mm]y|[Mm]e|[Mm]ine|[Ww]e|[Oo]ur|[Uu]s)\b(?!\.)"
    r"|[\uc800\ub098\uc81c\ub0b4](?:[\ub294\uac00\ub3c4\ub97c\uc758]"
    r"|\s|\uac8c|\ud55c\ud14c)|\uc6b0\ub9ac"
)


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
