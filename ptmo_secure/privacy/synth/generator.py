"""The data sets: seeded streams of labelled texts, for one side of the split.

    for example in dataset("train", 12_000, seed=1): ...

The side decides templates, words and locales: nothing of the held-out side is seen in training.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from ptmo_secure.privacy.synth.example import Example, Label, Piece, Split, join
from ptmo_secure.privacy.synth.fillers import Filler, Sources
from ptmo_secure.privacy.synth.grammar import expand, slots
from ptmo_secure.privacy.synth.korean import KoreanFiller
from ptmo_secure.privacy.synth.styles import restyle
from ptmo_secure.privacy.synth.templates import Template, of_split

PRIVATE_FAMILIES = (
    *("en_chat", "en_mail", "en_forms", "en_support", "en_medical_legal", "en_social", "en_tech"),
    *("en_context", "en_narrative", "en_press", "en_talk", "en_cards", "en_genres_heldout"),
    *("en_world", "en_office", "en_life", "en_data", "en_short"),
    *("en_reviews", "en_headlines", "en_signatures", "en_chatter", "en_codes"),
)
_ASKED = (
    *("neg_questions", "neg_tasks", "neg_mixed", "neg_school", "neg_fiction", "neg_world"),
    *("neg_work", "neg_code", "neg_plain"),
)
_SUMS = ("neg_sums", "neg_stories")
HARMLESS_FAMILIES = (*_ASKED, *_SUMS)
_SUM_SHARE = 0.27
_ASKED_TWICE = 0.35
_FACTS = ("neg_facts", "neg_facts", "neg_facts", "neg_sums")
FRAME_FAMILIES = ("frames_private", "frames_public")
KOREAN_PRIVATE = (
    "ko_private",
    "ko_chat",
    "ko_office",
    "ko_life",
    "ko_data",
    "ko_names",
    "ko_prose",
)
KOREAN_HARMLESS = (
    "ko_harmless",
    "ko_questions",
    "ko_tasks",
    "ko_stories",
    "ko_first_person",
    "ko_plain",
)
KOREAN_FAMILIES = (*KOREAN_PRIVATE, *KOREAN_HARMLESS)
FAMILIES = (
    *(*PRIVATE_FAMILIES, *HARMLESS_FAMILIES, "neg_facts", "neg_asks", *FRAME_FAMILIES, "en_told"),
    *KOREAN_FAMILIES,
)

_KOREAN_SHARE = 0.32
_KOREAN_PRIVATE_SHARE = 0.55
_LONG_SUMS = 0.6
# How often each kind of text is drawn, of the English ones
_MIX = {"private": 0.49, "harmless": 0.29, "frames": 0.12, "joined": 0.1}
_SEPARATORS = (" ", " ", "\n", "\n\n", " - ", ". ")


def dataset(
    split: Split, n: int, seed: int, *, languages: Sequence[str] = ("en", "ko")
) -> Iterator[Example]:
    """Yield texts of every kind, mixed: private, harmless, paired frames, several joined.

    Args:
        split: "train" or "heldout".
        n: how many.
        seed: the same seed gives the same texts, with the same version of Faker.
        languages: "en", "ko" or both.

    Raises:
        ValueError: a language is unknown.
    """
    if not languages or not set(languages) <= {"en", "ko"}:
        raise ValueError(f"languages {list(languages)}: expected some of 'en', 'ko'")
    sources = Sources(split, seed)
    rng = sources.rng
    for _ in range(n):
        if languages == ("ko",) or ("ko" in languages and rng.random() < _KOREAN_SHARE):
            told = rng.random() < _KOREAN_PRIVATE_SHARE
            yield korean(_pick_of(KOREAN_PRIVATE if told else KOREAN_HARMLESS, sources), sources)
            continue
        yield _MAKERS[rng.choices(list(_MIX), list(_MIX.values()))[0]](sources)


def private(split: Split, n: int, seed: int) -> Iterator[Example]:
    """Yield English texts with private spans."""
    sources = Sources(split, seed)
    for _ in range(n):
        yield _private(sources)


def harmless(split: Split, n: int, seed: int, *, language: str = "en") -> Iterator[Example]:
    """Yield questions and instructions without anything private, as they were typed."""
    sources = Sources(split, seed)
    for _ in range(n):
        if language == "ko":
            yield korean(_pick_of(KOREAN_HARMLESS, sources), sources)
        else:
            yield _harmless(sources)


def korean_private(split: Split, n: int, seed: int) -> Iterator[Example]:
    """Yield Korean texts with private spans."""
    sources = Sources(split, seed)
    for _ in range(n):
        yield korean(_pick_of(KOREAN_PRIVATE, sources), sources)


def paired_frames(split: Split, n: int, seed: int) -> Iterator[tuple[Example, Example]]:
    """Yield pairs: a full name in a private frame, and the very same name in a public one."""
    sources = Sources(split, seed)
    public = [t for t in of_split("frames_public", split) if _names_one_person(t)]
    for _ in range(n):
        filler = Filler(sources)
        frame = _pick("frames_private", sources)
        first = _render(frame, filler, sources.rng, styled=False)
        while True:
            other = sources.rng.choice(public)
            second = _render(other, filler, sources.rng, styled=False)
            if filler.person("p").get("full").text in second.text:
                break
        yield first, second


def _names_one_person(template: Template) -> bool:
    named = {slot.name for nodes in template.parsed for slot in slots(nodes) if "." in slot.name}
    return named == {"p.full"}


def told(count: int, seed: int) -> Iterator[Example]:
    """Yield what happened to somebody, each template so often, as it was typed; all held out."""
    sources = Sources("heldout", seed)
    for template in of_split("en_told", "heldout"):
        for _ in range(count):
            yield _render(template, Filler(sources), sources.rng, styled=False)


@cache
def _weights(family: str, split: Split) -> list[float]:
    return [template.weight for template in of_split(family, split)]


def _pick(family: str, sources: Sources) -> Template:
    templates = of_split(family, sources.split)
    return sources.rng.choices(templates, _weights(family, sources.split))[0]


def _pick_of(families: Sequence[str], sources: Sources) -> Template:
    """A template of several families, each as often as its templates weigh."""
    sizes = [sum(_weights(family, sources.split)) for family in families]
    return _pick(sources.rng.choices(families, sizes)[0], sources)


def _private(sources: Sources) -> Example:
    return _render(_pick_of(PRIVATE_FAMILIES, sources), Filler(sources), sources.rng)


def _harmless(sources: Sources) -> Example:
    """A sum, or texts of the other families by the number of their templates; some are double."""
    rng = sources.rng
    if rng.random() < _SUM_SHARE:
        family = rng.choice(_SUMS)
        if family == "neg_sums" and rng.random() < _LONG_SUMS:
            return _story(sources)
        return _render(_pick(family, sources), Filler(sources), rng)
    sizes = [len(of_split(family, sources.split)) for family in _ASKED]
    family = rng.choices(_ASKED, sizes)[0]
    count = 2 if rng.random() < _ASKED_TWICE else 1
    asked = [_render(_pick(family, sources), Filler(sources), rng) for _ in range(count)]
    return concatenate(asked, rng.choice(_SEPARATORS))


def _story(sources: Sources) -> Example:
    """A longer sum, of the same people: statements, then a question."""
    filler, rng = Filler(sources), sources.rng
    families = [*rng.choices(_FACTS, k=rng.randint(1, 5)), "neg_asks"]
    picked = [_pick(family, sources) for family in families]
    told = [expand(rng.choice(template.parsed), filler, rng) for template in picked]
    pieces = [piece for part in told for piece in (*part, Piece(" "))]
    text, spans = join(restyle(pieces[:-1], rng))
    return Example(text, spans, picked[0].id)


def _framed(sources: Sources) -> Example:
    family = sources.rng.choice(FRAME_FAMILIES)
    return _render(_pick(family, sources), Filler(sources), sources.rng)


def _joined(sources: Sources) -> Example:
    """Texts one after the other, as in a chat; one in five is long."""
    rng = sources.rng
    count = rng.randint(4, 12) if rng.random() < 0.2 else 2
    parts = [rng.choice((_private, _harmless, _framed))(sources) for _ in range(count)]
    return concatenate(parts, rng.choice(_SEPARATORS))


def concatenate(parts: Sequence[Example], separator: str) -> Example:
    """Put examples one after the other; the first gives the template."""
    spans: list[Label] = []
    at = 0
    for part in parts:
        spans += [Label(span.start + at, span.end + at, span.kind) for span in part.spans]
        at += len(part.text) + len(separator)
    text = separator.join(part.text for part in parts)
    return Example(text, tuple(spans), parts[0].template, language=parts[0].language)


def korean(template: Template, sources: Sources) -> Example:
    """Fill a Korean template."""
    filler = KoreanFiller(sources.rng, sources.split)
    return _render(template, filler, sources.rng, styled=False, language="ko")


def _render(
    template: Template,
    fill: Callable[[str], Piece],
    rng: random.Random,
    *,
    styled: bool = True,
    language: str = "en",
) -> Example:
    """Expand one of the template's wordings into a text with spans."""
    pieces = expand(rng.choice(template.parsed), fill, rng)
    if styled:
        pieces = restyle(pieces, rng)
    text, spans = join(pieces)
    return Example(text, spans, template.id, template.frame, language)


_MAKERS: dict[str, Callable[[Sources], Example]] = {
    "private": _private,
    "harmless": _harmless,
    "frames": _framed,
    "joined": _joined,
}
