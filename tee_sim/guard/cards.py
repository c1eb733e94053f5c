"""Cards: a name on a line of its own, then what its owner is and where, then how to reach them.

Ann Lee / Bus driver / Topcoder / 12 Mill Lane / 555-0100: beside a name and a number, a profession
and a firm point at one person, whatever words they are.
"""

import re
from collections.abc import Sequence

from tee_sim.guard.rules import Ranges
from tee_sim.scan_result import Span

_MAX_NAMES, _MAX_LINES = 64, 12  # lines from the name to the number, empty ones and labels too
_MAX_UNKNOWN = 3  # lines without any find
# A line without the marks of quoted mail, lists and rulers around what it says
_MARKS = r"[ \t\r>|*#\u2022\u00b7_~-]"
_LINE = re.compile(rf"(?:{_MARKS}|\?){{0,12}}(?P<said>[^\n]{{0,160}}?){_MARKS}{{0,12}}(?:\n|\Z)")
# A sentence, more than 60 characters, more than 7 words
_PROSE = re.compile(r"[.!?;]\Z|\w\w[.!?] |.{61}|(?:\S+\s+){7}\S")


def find_card_lines(text: str, spans: Sequence[Span], anchors: Sequence[tuple[int, int]]) -> Ranges:
    """Yield the lines between a name that fills its line and the number or address that follows.

    Args:
        text: any string.
        spans: found in it, ordered; the persons among them are names.
        anchors: ordered ranges of identifiers and addresses.
    """
    for name in [span for span in spans if span.kind == "PERSON"][:_MAX_NAMES]:
        own = _LINE.match(text, text.rfind("\n", 0, name.start) + 1)
        if own and name.start <= own.start("said") and own.end("said") <= name.end + 1:
            yield from _following(text, own.end(), anchors)


def _following(text: str, at: int, anchors: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    unknown: list[tuple[int, int]] = []
    for _ in range(_MAX_LINES):
        line = _LINE.match(text, at)
        if line is None:
            break
        (low, high), at, said = line.span("said"), line.end(), line["said"]
        if any(start < high and low < end for start, end in anchors):
            return unknown
        if said and not said.endswith(":"):  # "Contact details:"
            if _PROSE.search(said) or len(unknown) == _MAX_UNKNOWN:
                break
            unknown.append((low, high))
    return []
