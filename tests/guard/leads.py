"""Works out from a pattern's parse tree how its matches may begin.

`python -m tests.guard.leads` writes `tee_sim/guard/rules/leads.json` anew; a test says when that is
due. What this does not understand gets no leads: such a pattern is tried everywhere.
"""

import json
import re
import string
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from tee_sim.guard import rules

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_constants as op
    import sre_parse

FILE = Path(rules.__file__).parent / "leads.json"
MOST_MEMBERS, MOST_NEXT, MOST_LEADS = 260, 40, 1000
CAPITALS = {*string.ascii_uppercase}
SAMPLES = {op.CATEGORY_DIGIT: "0", op.CATEGORY_SPACE: " \n"}
CLASSES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}


@dataclass(frozen=True)
class Opening:
    """One way in which a match may begin.

    Args:
        lead: its first characters, folded, as far as they are known.
        open: whether the next element of the pattern tells the next character.
        letters, digits: whether no ASCII letter (digit) can stand before the match.
        first: whether it begins with the text.
        blank: whether the lead is a blank that only a number makes a start.
    """

    lead: str = ""
    open: bool = True
    letters: bool = False
    digits: bool = False
    first: bool = False
    blank: bool = False


class AnywhereError(Exception):
    """The matches of a pattern may begin where no start is."""


def leads_of(pattern):
    """The leads of a compiled pattern, sorted; none if its matches may begin anywhere."""
    try:
        openings = _walk(
            sre_parse.parse(pattern.pattern, pattern.flags), {Opening()}, pattern.flags
        )
    except AnywhereError:
        return []
    if any((o.open and o.lead == "") or (o.blank and len(o.lead) == 1) for o in openings):
        return []
    found = {opening.lead for opening in openings}
    covered = {lead for lead in found if any(lead[:n] in found for n in range(len(lead)))}
    return sorted(found - covered)


def _walk(items, openings, flags):
    for kind, value in items:
        going = {opening for opening in openings if opening.open}
        if not going:
            break
        openings = openings - going | _step(kind, value, going, flags)
        for size in range(rules.LEAD, 0, -1):
            if len(openings) > MOST_LEADS:
                openings = {
                    o if len(o.lead) < size else replace(o, lead=o.lead[:size], open=False)
                    for o in openings
                }
    return openings


def _step(kind, value, openings, flags):
    if kind is op.SUBPATTERN:
        _, added, removed, items = value
        return _walk(items, openings, (flags | added) & ~removed)
    if kind is op.BRANCH:
        return set().union(*(_walk(items, openings, flags) for items in value[1]))
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most, items = value
        done = set() if least else set(openings)
        for count in range(1, min(int(most), rules.LEAD) + 1):
            openings = _walk(items, openings, flags)
            done |= openings if count >= least else set()
        return done | openings
    if kind is op.AT:
        return {_at(opening, value) for opening in openings}
    if kind is op.ASSERT_NOT:
        return {_not_behind(opening, *value) for opening in openings}
    if kind is op.ASSERT:
        return openings
    return set().union(*(_consume(opening, kind, value, flags) for opening in openings))


def _at(opening, where):
    first = where in (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
    if opening.lead or not (first or where is op.AT_BOUNDARY):
        return opening
    # Behind a boundary that a sign follows there may be a letter, but signs are always starts
    return replace(opening, letters=True, digits=True, first=first or opening.first)


def _not_behind(opening, direction, items):
    """What may not stand before a match."""
    if direction != -1 or opening.lead or len(items) != 1 or items[0][0] is not op.IN:
        return opening
    behind = re.compile(_written(items[0][1]))
    letters = all(map(behind.match, string.ascii_letters))
    digits = all(map(behind.match, string.digits))
    return replace(opening, letters=opening.letters or letters, digits=opening.digits or digits)


def _written(members):
    """A character class as a pattern again."""
    text = ""
    for kind, value in members:
        if kind is op.NEGATE:
            text += "^"
        elif kind is op.LITERAL:
            text += re.escape(chr(value))
        elif kind is op.RANGE:
            text += "-".join(re.escape(chr(end)) for end in value)
        else:
            text += CLASSES[value]
    return f"[{text}]"


def _members(kind, value, flags):
    """The characters that an element may be; None for many."""
    if kind is op.LITERAL:
        return {chr(value)}
    if kind is not op.IN:
        return None
    members = set()
    for part, what in value:
        if part is op.LITERAL:
            members.add(chr(what))
        elif part is op.RANGE and what[1] - what[0] < MOST_MEMBERS:
            members |= {chr(code) for code in range(what[0], what[1] + 1)}
        elif part is op.CATEGORY and what in SAMPLES:
            members |= set(SAMPLES[what])
        else:
            return None
    return members


def _consume(opening, kind, value, flags):
    members = _members(kind, value, flags)
    if not opening.lead:
        return _begin(opening, kind, value, members, flags)
    if opening.blank and len(opening.lead) == 1 and not (members and members <= {*"(0123456789"}):
        raise AnywhereError
    if members is None or len(members) > MOST_NEXT:
        return {replace(opening, open=False)}
    return {_longer(opening, char) for char in members}


def _begin(opening, kind, value, members, flags):
    """The openings with the first character of a match."""
    plain = re.compile(_written(value), flags & re.IGNORECASE) if kind is op.IN else None
    seen = members if plain is None else {c for c in map(chr, range(128)) if plain.match(c)}
    if seen is None:
        raise AnywhereError
    if not opening.letters and any(c.isascii() and c.isalpha() for c in seen):
        raise AnywhereError
    if not opening.digits and any(c.isascii() and c.isdigit() for c in seen):
        raise AnywhereError
    latin = {c for c in seen if c.isascii()}
    capitals = len(seen) > 3 and latin and latin <= CAPITALS
    if members is None or capitals:  # capitals and what is beyond ASCII are one lead
        if " " in seen or len(seen) > MOST_NEXT:
            raise AnywhereError
        rest = latin - (CAPITALS if capitals else set())
        short = {replace(_longer(opening, char), open=False) for char in rest}
        return short | {replace(opening, lead=rules.CAPITAL, open=False)}
    return {
        replace(_longer(opening, char), blank=char == " " and not opening.first) for char in members
    }


def _longer(opening, char):
    lead = opening.lead + rules.FOLDS[ord(char)]
    return replace(opening, lead=lead, open=len(lead) < rules.LEAD)


def all_rules():
    """Every rule whose leads the guard looks up."""
    from tee_sim.guard.identifiers import IDENTIFIERS

    for path in sorted(FILE.parent.glob("*.txt")):
        if path.stem != "identifiers":
            for group in rules.load(path.stem).values():
                yield from group
    for row in IDENTIFIERS:
        yield row.shape
        if row.words is not None:
            yield row.words


def written():
    """What `leads.json` has to hold."""
    leads = {rules.digest(rule.source): leads_of(rule.pattern) for rule in all_rules()}
    lines = [
        f"{json.dumps(name)}: {json.dumps(leads[name])}" for name in sorted(leads) if leads[name]
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
