"""Word lists of the recognisers, as data: read when the guard starts, before its filter."""

import re
from pathlib import Path


def entries(name: str) -> tuple[str, ...]:
    """Return the entries of a list: parted by commas, lines that begin with # are comments.

    Raises:
        OSError: the list is missing; a guard without its words does not start.
    """
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    lines = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(entry for part in lines.split(",") if (entry := part.strip()))


def pairs(name: str) -> dict[str, str]:
    """Return a list whose entries are `key=value`."""
    return dict(entry.split("=", 1) for entry in entries(name))


def alternatives(name: str) -> str:
    """Return a pattern of any entry, the longest first; blanks match any blank or hyphen."""
    ordered = sorted(entries(name), key=len, reverse=True)
    return "(?:" + "|".join(re.escape(entry).replace(r"\ ", r"[\s-]") for entry in ordered) + ")"
