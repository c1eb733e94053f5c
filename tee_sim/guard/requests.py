"""What a text asks for, once its private values are masked.

Two strengths. A request *stands alone* when it holds no masked value and does not point back at
one. A request *carries* a value when it would be the same with another one: "Write a birthday card
for my daughter NAME". What asks about the value itself ("Who is NAME?") does neither.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from tee_sim.guard.frames import HANGUL
from tee_sim.guard.rules import load, patterns

MASK = "\ufffc"
_RULES = load("requests")
_SENTENCE_END, _CLAUSE_START, _FILLER, _REQUEST = patterns(
    _RULES, "sentence_end clause_start filler request"
)
_CONTENT = re.compile(r"[^\W\d_]{2,}|\d+|[\uac00-\ud7a3]")
_QUESTION_MARKS = ("?", "\uff1f", "\u061f")


def mask(text: str, ranges: Iterable[tuple[int, int]]) -> str:
    """Return a text of the same length with ordered, disjoint ranges masked."""
    pieces, at = [], 0
    for start, end in ranges:
        # A mark that closes a value may also close the sentence
        closing = text[end - 1] if text[end - 1] in "!." and end - start > 1 else MASK
        pieces += [text[at:start], MASK * (end - start - 1), closing]
        at = end
    return "".join([*pieces, text[at:]])


def sentences(masked: str) -> list[tuple[int, int]]:
    """Return the ordered, adjoining ranges of a text's sentences; at least one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(masked)]
    if not ends or ends[-1] < len(masked):
        ends.append(len(masked))
    return list(zip([0, *ends], ends, strict=False))


def asks_alone(masked: str, places: Sequence[tuple[int, int]], *, strict: bool) -> bool:
    """Whether some sentence or clause is a request that stands by itself.

    Args:
        masked: the text, private values masked.
        places: its sentences.
        strict: the text tells a grave situation: a request of the speaker for themselves rests on
            it, unless they say that something else begins, or ask for plain knowledge.
    """
    turn = _first_turn(masked)
    for start, end in places:
        sentence = masked[start:end]
        if MASK not in sentence:
            if _stands_alone(sentence, strict=strict, turned=turn < end):
                return True
            continue
        for at, clause in _clauses(sentence):
            turned = turn < start + at + len(clause)
            if _begins(clause.strip()) and _stands_alone(clause, strict=strict, turned=turned):
                return True
    return False


def carries(masked: str, places: Sequence[tuple[int, int]]) -> bool:
    """Whether some request is the same whatever the masked values are.

    Args:
        masked: the text, private values masked.
        places: its sentences.
    """
    return any(_carries(masked[start:end].strip()) for start, end in places)


def refers_back(text: str) -> bool:
    """Whether a text has a word that stands for something said before it."""
    return _found("anaphora", text)


def _carries(sentence: str) -> bool:
    if not sentence or _found("about_value", sentence):
        return False
    if HANGUL.search(sentence):
        if MASK in sentence:
            return _found("korean_carrying", sentence) and not _found("korean_about", sentence)
        return _found("korean_request", sentence)
    if MASK in sentence and sentence.endswith(_QUESTION_MARKS):
        # "Is NAME ...?" asks about NAME, unless a clause without a value is what asks
        return _found("placed", sentence) or any(
            MASK not in clause and _begins(clause.strip()) and not refers_back(clause)
            for _, clause in _clauses(sentence)
        )
    return asks(sentence)


def asks(segment: str) -> bool:
    """Whether a sentence is a request by its first words or its end."""
    return segment.endswith(_QUESTION_MARKS) or _begins(segment) or _found("asking", segment)


def _begins(segment: str) -> bool:
    if HANGUL.search(segment):
        return _found("korean_request", segment) or _found("korean_carrying", segment)
    return _REQUEST.match(segment) is not None


def _stands_alone(segment: str, *, strict: bool, turned: bool) -> bool:
    """Whether a segment asks for something without pointing back at a masked part."""
    segment = segment.strip()
    if MASK in segment or refers_back(segment) or not asks(segment):
        return False
    idle = segment
    if not turned:
        for rule in _RULES["idle_me"]:
            idle = rule.pattern.sub(" ", idle)
    if not turned and _found("first_person", idle):
        return False
    # The speaker of Hangul goes without saying
    own = HANGUL.search(segment) is not None or _found("first_person", segment)
    if strict and own and not turned and not _found("worldly", segment):
        return False
    return _CONTENT.search(_FILLER.sub(" ", segment)) is not None


def _first_turn(text: str) -> int:
    """Return where a text first says that something else begins; its length if nowhere."""
    found = (rule.pattern.search(text) for rule in _RULES["turn"])
    return min((match.start() for match in found if match), default=len(text))


def _clauses(sentence: str) -> Iterator[tuple[int, str]]:
    at = 0
    for match in _CLAUSE_START.finditer(sentence):
        yield at, sentence[at : match.start()]
        at = match.end()
    yield at, sentence[at:]


def _found(group: str, text: str) -> bool:
    return any(rule.pattern.search(text) is not None for rule in _RULES[group])
