"""The data sets: seeded streams of labelled texts, for one side of the split.

    for example in dataset("train", 12_000, seed=1): ...

The side decides templates, words and locales: nothing of the held-out side is seen in training.
"""

from collections.abc import Callable, Iterator, Sequence

from ptmo_secure.privacy.synth.behind import BEHIND_FAMILIES, behind_task
from ptmo_secure.privacy.synth.drawing import concatenate, korean, pick, pick_of, render
from ptmo_secure.privacy.synth.example import Example, Piece, Split, join
from ptmo_secure.privacy.synth.fillers import Filler, Sources
from ptmo_secure.privacy.synth.grammar import expand, slots
from ptmo_secure.privacy.synth.styles import restyle
from ptmo_secure.privacy.synth.templates import Template, of_split

PRIVATE_FAMILIES = (
    *("en_chat", "en_mail", "en_forms", "en_support", "en_medical_legal", "en_social", "en_tech"),
    *("en_context", "en_narrative", "en_press", "en_talk", "en_cards", "en_genres_heldout"),
    *("en_world", "en_office", "en_life", "en_data", "en_short"),
    *("en_reviews", "en_headlines", "en_signatures", "en_chatter", "en_codes"),
    "en_encounters",
)
# For training alone; more of them makes a guard that finds fewer names as well
_LATER_ASKED = {
    **{"neg_machine": 0.6, "neg_lessons": 0.35, "neg_makebelieve": 0.35},
    **{"neg_curious": 0.35, "neg_samples": 0.35},
}
_ASKED = (
    *("neg_questions", "neg_tasks", "neg_mixed", "neg_school", "neg_fiction", "neg_world"),
    *("neg_work", "neg_code", "neg_plain", *_LATER_ASKED),
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
    "ko_encounters",
)
KOREAN_HARMLESS = (
    "ko_harmless",
    "ko_questions",
    "ko_tasks",
    "ko_stories",
    "ko_first_person",
    "ko_plain",
    "ko_everyday",
)
KOREAN_FAMILIES = (*KOREAN_PRIVATE, *KOREAN_HARMLESS)
FAMILIES = (
    *(*PRIVATE_FAMILIES, *HARMLESS_FAMILIES, "neg_facts", "neg_asks", *FRAME_FAMILIES, "en_told"),
    *(*KOREAN_FAMILIES, *BEHIND_FAMILIES),
)

_KOREAN_SHARE = 0.32
_KOREAN_MIX = {KOREAN_PRIVATE: 0.54, KOREAN_HARMLESS: 0.42, (): 0.04}  # (): behind a task
_LONG_SUMS = 0.6
# How often each kind of text is drawn, of the English ones
_MIX = {"private": 0.47, "harmless": 0.28, "frames": 0.12, "joined": 0.09, "behind": 0.04}
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
            yield _korean(sources)
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
            yield korean(pick_of(KOREAN_HARMLESS, sources), sources)
        else:
            yield _harmless(sources)


def korean_private(split: Split, n: int, seed: int) -> Iterator[Example]:
    """Yield Korean texts with private spans."""
    sources = Sources(split, seed)
    for _ in range(n):
        yield korean(pick_of(KOREAN_PRIVATE, sources), sources)


def paired_frames(split: Split, n: int, seed: int) -> Iterator[tuple[Example, Example]]:
    """Yield pairs: a full name in a private frame, and the very same name in a public one."""
    sources = Sources(split, seed)
    public = [t for t in of_split("frames_public", split) if _names_one_person(t)]
    for _ in range(n):
        filler = Filler(sources)
        frame = pick("frames_private", sources)
        first = render(frame, filler, sources.rng, styled=False)
        while True:
            other = sources.rng.choice(public)
            second = render(other, filler, sources.rng, styled=False)
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
            yield render(template, Filler(sources), sources.rng, styled=False)


def _private(sources: Sources) -> Example:
    return render(pick_of(PRIVATE_FAMILIES, sources), Filler(sources), sources.rng)


def _harmless(sources: Sources) -> Example:
    """A sum, or texts of the other families by the number of their templates; some are double."""
    rng = sources.rng
    if rng.random() < _SUM_SHARE:
        family = rng.choice(_SUMS)
        if family == "neg_sums" and rng.random() < _LONG_SUMS:
            return _story(sources)
        return render(pick(family, sources), Filler(sources), rng)
    sizes = [len(of_split(name, sources.split)) * _LATER_ASKED.get(name, 1) for name in _ASKED]
    family = rng.choices(_ASKED, sizes)[0]
    count = 2 if rng.random() < _ASKED_TWICE else 1
    asked = [render(pick(family, sources), Filler(sources), rng) for _ in range(count)]
    return concatenate(asked, rng.choice(_SEPARATORS))


def _story(sources: Sources) -> Example:
    """A longer sum, of the same people: statements, then a question."""
    filler, rng = Filler(sources), sources.rng
    families = [*rng.choices(_FACTS, k=rng.randint(1, 5)), "neg_asks"]
    picked = [pick(family, sources) for family in families]
    told = [expand(rng.choice(template.parsed), filler, rng) for template in picked]
    pieces = [piece for part in told for piece in (*part, Piece(" "))]
    text, spans = join(restyle(pieces[:-1], rng))
    return Example(text, spans, picked[0].id)


def _korean(sources: Sources) -> Example:
    families = sources.rng.choices(list(_KOREAN_MIX), list(_KOREAN_MIX.values()))[0]
    if not families:
        return behind_task(sources, KOREAN_PRIVATE, "ko")
    return korean(pick_of(families, sources), sources)


def _framed(sources: Sources) -> Example:
    family = sources.rng.choice(FRAME_FAMILIES)
    return render(pick(family, sources), Filler(sources), sources.rng)


def _behind(sources: Sources) -> Example:
    return behind_task(sources, PRIVATE_FAMILIES)


def _joined(sources: Sources) -> Example:
    """Texts one after the other, as in a chat; one in five is long."""
    rng = sources.rng
    count = rng.randint(4, 12) if rng.random() < 0.2 else 2
    parts = [rng.choice((_private, _harmless, _framed))(sources) for _ in range(count)]
    return concatenate(parts, rng.choice(_SEPARATORS))


_MAKERS: dict[str, Callable[[Sources], Example]] = {
    "private": _private,
    "harmless": _harmless,
    "frames": _framed,
    "joined": _joined,
    "behind": _behind,
}
