"""Situations told without a name or a number: health, sexuality, crime, a break-up, a move.

A grave topic counts in a sentence where the speaker, somebody of theirs, or a private name found
before stands; "What is HIV?" and "a character who has cancer" tell nothing of anybody. A mild one
is a whole frame ("I was laid off", "my sister is ..."). And whoever tells of themselves and asks
for nothing has told something private, unless it is a mood or a taste: no word list knows all.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tee_sim.guard.frames import korean
from tee_sim.guard.requests import asks
from tee_sim.guard.rules import Rule, load, search, value_of
from tee_sim.guard.words import pairs
from tee_sim.scan_result import Span

_RULES = load("situations")
_SELF, _KOREAN_SELF, _NOBODY, _IDLE, _MOOD, _TELLING = (
    _RULES[name] for name in ("self", "korean_self", "nobody", "self_idle", "mood", "telling")
)
_STATEMENT_WORDS = 4
# Topics of Korean words are told apart by nobody; the gravest stands for all of them
_SEVERITY = {topic: float(severity) for topic, severity in pairs("grave_topics").items()}
_GRAVE_KOREAN, _MILD = 0.8, 0.3


@dataclass(frozen=True, slots=True)
class Situation:
    """A topic that a text touches about a private person.

    Args:
        start, end: where it is told.
        topic: one of `scan_result.TOPICS`.
        severity: how much its disclosure costs, in [0, 1].
        grave: whether no mask would hide it.
    """

    start: int
    end: int
    topic: str
    severity: float
    grave: bool


def find_situations(
    text: str, spans: Sequence[Span], sentences: Sequence[tuple[int, int]]
) -> list[Situation]:
    """Return the situations that a text tells.

    Args:
        text: any string.
        spans: private values in it; a sentence with a PERSON is about that person.
        sentences: its ordered, adjoining sentences.
    """
    named = {_place(sentences, span.start) for span in spans if span.kind == "PERSON"}
    told: dict[int, bool] = {}
    found = []
    for topic, severity, grave, start, end in _candidates(text):
        if grave:
            place = _place(sentences, start)
            if place not in told:
                told[place] = _tells(text, sentences[place], place in named)
            if not told[place]:
                continue
        found.append(Situation(start, end, topic, severity, grave))
    return found if found or spans else [*_statement(text, sentences)]


def _statement(text: str, sentences: Sequence[tuple[int, int]]) -> Iterator[Situation]:
    """Yield the first sentence that tells of the speaker, in a text that asks for nothing."""
    said = [text[start:end].strip() for start, end in sentences]
    if any(asks(sentence) for sentence in said):
        return
    for sentence, (start, end) in zip(said, sentences, strict=True):
        told = _any(_TELLING, sentence) or not sentence.isascii()
        told = told and len(sentence.split()) >= _STATEMENT_WORDS and not _any(_MOOD, sentence)
        if told and _tells(text, (start, end), named=False):
            yield Situation(start, end, "statement", _MILD, grave=False)
            return


def _candidates(text: str) -> Iterator[tuple[str, float, bool, int, int]]:
    for group, rules in _RULES.items():
        weight, _, topic = group.partition(".")
        if weight not in ("grave", "mild"):
            continue
        grave = weight == "grave"
        severity = _SEVERITY.get(topic, _GRAVE_KOREAN) if grave else _MILD
        if topic == "korean" and not korean(text):
            continue
        for match in search(rules, text):
            yield topic, severity, grave, *value_of(match)


def _tells(text: str, sentence: tuple[int, int], named: bool) -> bool:
    """Whether a sentence is about the speaker or about somebody they name."""
    said = text[slice(*sentence)]
    if _any(_NOBODY, said):
        return False
    if named:
        return True
    for rule in _IDLE:
        said = rule.pattern.sub(" ", said)
    return _any(_SELF, said) or (not said.isascii() and _any(_KOREAN_SELF, said))


def _any(rules: Iterable[Rule], text: str) -> bool:
    return any(rule.pattern.search(text) for rule in rules)


def _place(sentences: Sequence[tuple[int, int]], at: int) -> int:
    """Return the number of the sentence that holds a position."""
    return max(0, bisect_right(sentences, (at, len(sentences) and sentences[-1][1] + 1)) - 1)
