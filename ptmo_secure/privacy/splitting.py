"""Cuts a text into sentences or clauses without losing a character.

A cut lies between two characters; a piece runs from one cut to the next. Code, quotations, URLs and
quoted mail are never cut. Sentence ends follow the common part of UAX #29 with the marks of other
scripts; what they leave open (abbreviations, numbers, initials, ellipses) is decided by lists.
"""

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence

Range = tuple[int, int]

# Never cut inside one of these. Repetitions are bounded, so the time is linear in the text.
_WHOLE = (
    re.compile(r"```.{0,20000}?(?:```|\Z)", re.S),
    re.compile(r"`[^`\n]{1,400}`"),
    re.compile(r"(?m)^[ \t]{0,8}>.*(?:\n[ \t]{0,8}>.*){0,400}"),  # quoted mail
    re.compile(r"(?m)(?:^(?: {4}|\t).*\n?){2,400}"),  # indented code
    re.compile(
        r"(?:https?|ftp|ssh|file)://[^\s<>\"']{1,2000}(?<![.,;:!?)])|\bwww\.[^\s<>\"']{1,500}"
    ),
    re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}\.[A-Za-z]{2,24}"),
    re.compile(r"\"[^\"\n]{1,1000}\"|\u201c[^\u201d]{1,1000}\u201d|\u300c[^\u300d]{1,500}\u300d"),
    re.compile(r"\u00ab[^\u00bb]{1,1000}\u00bb|\u300e[^\u300f]{1,500}\u300f"),
)
_ABBREVIATIONS = frozenset(
    "dr mr mrs ms mx prof rev sr jr st nr vs approx dept est gov hon lt sgt capt messrs mme mlle "
    "sig sra srta bzw usw z.b d.h u.a e.g i.e cf u.s u.k u.n ph.d m.d b.a vol pp eds jan feb apr "
    "jun jul aug sept oct nov dec tue tues thu thur thurs fri ave blvd".split()
)
# May end a sentence, too, and do before a capital
_MAY_END = frozenset(
    "etc p.m a.m inc ltd co corp no fig gen sat sun mar mon wed sep ed al ext tel apt col fr hr op "
    "rd ca".split()
)
_STOP = re.compile(
    r"(?P<latin>[.!?]{1,64}[\"'\u201d\u2019\u00bb)\]]{0,3})(?=\s)"
    r"|[\u3002\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4\u0589\u1362]{1,16}"
    r"(?:[\u300d\u300f\u201d\u2019)]{1,3}(?![\u3068\u3063\u3001])|(?![\u300d\u300f\u201d\u2019)]))"
)
_ITEM = re.compile(r"[ \t]{0,12}(?:[-*+\u2022\u00b7]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]")
_LAST_WORD = re.compile(r"[^\W\d_](?:[\w.]{0,12}\w)?\Z")
_CLOSED = frozenset(".!?:;\u3002\uff01\uff1f\u061f\u0964,\uff0c\u2026")
_ASKING = (
    r"what|how|why|when|where|who|whose|whom|which|is|are|was|were|do|does|did|can|could|would|should"
    r"|will|please|explain|write|tell|give|list|describe|summari[sz]e|translate|compare|show|recommend"
    r"|suggest|define|calculate|create|draft|generate|plan|teach|help|find|make|also|meanwhile|anyway"
)
_SUBJECT = r"i|you|he|she|we|they|my|our|his|her|their|your|the|there|it"
_CLAUSE = re.compile(
    rf"[,;:]\s+(?=(?:(?:and|but|so|then|or)\s+)?(?:{_ASKING}|{_SUBJECT})\b)"
    rf"|\s+[-\u2013\u2014]\s+(?=\S)|[;]\s+(?=\S)|\u2014(?=\w)"
    r"|\s+(?=(?:and|but|so|because|although|while|whereas|then|also)\s+"
    rf"(?:{_ASKING}|i|we|my|he|she)\b)"
    r"|(?<=[\uac00-\ud7a3]{1})(?<=\ub370|\ub9cc|\uae4c|\uace0)[,\s]\s*(?=[\uac00-\ud7a3A-Za-z])"
    r"|[\u3001\uff0c\u060c\uff1b]\s*(?=\S)",
    re.IGNORECASE,
)


def sentence_cuts(text: str) -> list[int]:
    """Return the positions, ascending, at which a new sentence or line begins; never 0.

    Args:
        text: any string.
    """
    whole = _whole(text)
    cuts = {match.end() for match in _STOP.finditer(text) if _is_end(text, match)}
    cuts |= {
        match.end() for match in re.finditer(r"\n", text) if not _is_wrapped(text, match.start())
    }
    for start, end in whole:
        if text.startswith(("```", ">"), start) or text[start:end].count("\n") > 1:
            cuts |= {start, end}
    return _kept(text, cuts, whole)


def clause_cuts(text: str) -> list[int]:
    """Return the positions at which a clause or a sentence begins.

    Args:
        text: any string.
    """
    whole = _whole(text)
    cuts = {match.end() for match in _CLAUSE.finditer(text)}
    return sorted({*_kept(text, cuts, whole), *sentence_cuts(text)})


def pieces(text: str, cuts: Iterable[int], uncut: Iterable[Range] = ()) -> list[Range]:
    """Return the ranges between cuts, without the blanks at their ends.

    Args:
        text: any string.
        cuts: where pieces begin.
        uncut: ranges, disjoint, that no cut may lie in, and whose blanks are kept.

    Returns:
        Ordered, disjoint ranges; what lies between, before and after them is blank. A text of
        blanks alone is one piece; an empty one has none.
    """
    ranges = sorted(uncut)
    places = [0, *outside(sorted(set(cuts)), ranges), len(text)]
    found, next_range = [], 0
    for start, end in itertools.pairwise(places):
        said = text[start:end]
        kept = said.strip()
        low = start + len(said) - len(said.lstrip()) if kept else end
        high = low + len(kept) if kept else start
        while next_range < len(ranges) and ranges[next_range][0] < end:
            low = min(low, ranges[next_range][0])
            high = max(high, ranges[next_range][1])
            next_range += 1
        if low < high:
            found.append((low, high))
    return found or ([(0, len(text))] if text else [])


def outside(cuts: Iterable[int], uncut: Iterable[Range]) -> list[int]:
    """Return the cuts that lie inside none of some ranges; at their edges they may."""
    ranges = sorted(uncut)
    starts = [start for start, _ in ranges]
    reach, ends = 0, []
    for _, end in ranges:
        reach = max(reach, end)
        ends.append(reach)
    kept = []
    for cut in cuts:
        place = bisect_right(starts, cut - 1) - 1
        if place < 0 or ends[place] <= cut:
            kept.append(cut)
    return kept


def _whole(text: str) -> list[Range]:
    return [match.span() for pattern in _WHOLE for match in pattern.finditer(text)]


def _kept(text: str, cuts: Iterable[int], whole: Sequence[Range]) -> list[int]:
    inner = (cut for cut in sorted(cuts) if 0 < cut < len(text))
    return outside(inner, whole)


def _is_end(text: str, match: "re.Match[str]") -> bool:
    """Whether marks end a sentence: not those of an abbreviation, an initial or an ellipsis."""
    marks = match["latin"]
    if marks is None:
        return True
    after = text[match.end() : match.end() + 16].lstrip()
    if marks[-1] not in ".!?" and after[:1].islower():
        return False  # he said "Stop!" and left
    if marks.startswith("..") and "?" not in marks and "!" not in marks:
        return after[:1].isupper()
    if marks[0] != ".":
        return True
    line = text[max(0, match.start() - 16, text.rfind("\n", 0, match.start()) + 1) : match.start()]
    if _ITEM.fullmatch(line + ". "):
        return False  # "1." of a list
    word = _LAST_WORD.search(line)
    if word is None:
        return True
    name = word.group().lower()
    if len(name) == 1 and word.group().isupper() and after[:1].isupper():
        return name == "i"  # an initial: "J. Smith"; but "so do I. Then ..."
    if name in _MAY_END:
        return after[:1].isupper()
    return name not in _ABBREVIATIONS


def _is_wrapped(text: str, newline: int) -> bool:
    """Whether a line goes on in the next: that begins small and no mark stands before it."""
    before = text[max(0, newline - 40) : newline].rstrip(" \t\r")
    after = text[newline + 1 : newline + 41]
    if not after.strip() or after[0] == "\n" or _ITEM.match(after):
        return False
    return (
        bool(before)
        and before[-1] not in _CLOSED
        and not before.endswith("\n")
        and after.lstrip(" \t")[:1].islower()
    )
