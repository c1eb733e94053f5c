"""The built-in suites: held-out texts of our own generator, chats with levels, speed.

Each is deterministic. None shares a template, a word of a split list or a seed with training.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ptmo_secure.privacy import synth
from ptmo_secure.privacy.datafiles import LabelledText
from ptmo_secure.privacy.synth.fillers import Filler, Sources

SEED = 20_261
CHATS = Path(__file__).parent / "synth" / "data" / "labelled_chats.jsonl"
LEVELS = ("PUBLIC", "SEMI_SENSITIVE", "PRIVATE")
TEXTS, PAIRS, KOREAN_TEXTS, VALUES_PER_KIND = 1_000, 300, 400, 20
# What people put before a text that an assistant is to work on
TASKS = (
    *("Summarise: ", "Fix the grammar: ", "Translate to Spanish: ", "Rewrite in formal tone: "),
    *("Make this sound nicer: ", "What does this mean? ", "tl;dr this\n\n", "Shorten it please.\n"),
)
_TOLD = 4  # of each story
_CARRIERS: Mapping[str, tuple[str, ...]] = {
    "p.full": (
        "My neighbour {} has been ill since spring.",
        "I'm {} and I need help with a letter to my landlord.",
        "Patient name: {}",
        "please call {} back, it's about my daughter",
    ),
    "p.email": (
        "You can write to me at {} any time.",
        "my mail is {}, please send the contract there",
        "Contact: {}",
        "The account is registered under {}.",
    ),
    "p.phone": (
        "Call me at {} after six.",
        "my number is {}, text me",
        "Phone: {}",
        "Our babysitter's mobile is {}.",
    ),
    "ssn": (
        "My SSN is {} and I need a new card.",
        "social security number: {}",
        "Is {} the social security number on my tax form?",
        "I gave them my social, {}, on the phone.",
    ),
    "card": (
        "Charge my card {} for the deposit.",
        "credit card number: {}",
        "The card {} was stolen from me.",
        "pay with {} please",
    ),
}


@dataclass(frozen=True, slots=True)
class Chat:
    """A query with its level, by the label guide."""

    text: str
    level: str
    language: str
    tag: str


def labelled(examples: Iterator[synth.Example]) -> list[LabelledText]:
    """Examples as labelled texts."""
    return [LabelledText(example.text, tuple(example.spans)) for example in examples]


def private_texts() -> list[LabelledText]:
    """English texts with private spans."""
    return labelled(synth.private("heldout", TEXTS, SEED))


def harmless_texts() -> list[LabelledText]:
    """English questions and instructions without anything private."""
    return labelled(synth.harmless("heldout", TEXTS, SEED + 1))


def korean_texts() -> list[LabelledText]:
    """Korean texts with private spans."""
    return labelled(synth.korean_private("heldout", KOREAN_TEXTS, SEED + 2))


def korean_harmless_texts() -> list[LabelledText]:
    """Korean questions without anything private."""
    return labelled(synth.harmless("heldout", KOREAN_TEXTS, SEED + 3, language="ko"))


def frames() -> list[tuple[LabelledText, LabelledText]]:
    """The same names in a private and in a public frame; both label where the name stands."""
    pairs = []
    for private, public in synth.paired_frames("heldout", PAIRS, SEED + 4):
        start, end, kind = next(span for span in private.spans if span.kind == "PERSON")
        name = private.text[start:end]
        at = public.text.index(name)
        pairs.append(
            (
                LabelledText(private.text, ((start, end, kind),)),
                LabelledText(public.text, ((at, at + len(name), kind),)),
            )
        )
    return pairs


def behind_tasks() -> dict[bool, list[LabelledText]]:
    """What happened to people, as it is (False), and behind each of `TASKS` (True)."""
    stories = labelled(synth.told(_TOLD, SEED + 6))
    behind = []
    for task in TASKS:
        for story in stories:
            moved = ((start + len(task), end + len(task), kind) for start, end, kind in story.gold)
            behind.append(LabelledText(task + story.text, tuple(moved)))
    return {False: stories, True: behind}


def carried_values() -> list[LabelledText]:
    """Names, e-mail addresses, phones, social security and card numbers, one to a sentence."""
    sources = Sources("heldout", SEED + 5)
    texts = []
    for slot, carriers in _CARRIERS.items():
        for index in range(VALUES_PER_KIND):
            value, kind = Filler(sources)(slot)
            before, after = carriers[index % len(carriers)].split("{}")
            span = (len(before), len(before) + len(value), kind or slot)
            texts.append(LabelledText(before + value + after, (span,)))
    return texts


@cache
def chats() -> tuple[Chat, ...]:
    """The labelled chats, see docs/labelling.md."""
    lines = CHATS.read_text(encoding="utf-8").splitlines()
    return tuple(Chat(**json.loads(line)) for line in lines if line.strip())


def timed_texts(count: int, *, tokens: int = 0, characters: int = 0) -> list[str]:
    """Texts of one length for measuring speed, put together from held-out ones.

    Args:
        count: how many.
        tokens: words and signs of each, or 0.
        characters: characters of each, where tokens is 0.
    """
    texts, parts = [], synth.dataset("heldout", 100 * count, SEED + 6, languages=("en",))
    for _ in range(count):
        text = ""
        while len(_words(text)) < tokens or len(text) < characters:
            text += next(parts).text + " "
        end = _words(text)[tokens - 1] if tokens else characters
        texts.append(text[:end])
    return texts


def _words(text: str) -> list[int]:
    """Where each word or sign ends."""
    return [match.end() for match in re.finditer(r"\w+|[^\w\s]", text)]
