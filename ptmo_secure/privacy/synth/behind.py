"""Texts that an assistant is to work on, with the task before or after them.

The same tasks stand before what happened to somebody and before exercises, fiction and public
knowledge: what makes a name private is what is said of it, not the task.
"""

from collections.abc import Mapping

from ptmo_secure.privacy.synth.drawing import concatenate, korean, pick, pick_of, render
from ptmo_secure.privacy.synth.example import Example
from ptmo_secure.privacy.synth.fillers import Filler, Sources

Shares = Mapping[tuple[str, ...], float]
TASKS, KOREAN_TASKS = "asked_of_text", "ko_asked_of_text"
# What stands behind a task: families, and how often
_BEHIND: Shares = {("en_happened",): 0.5, ("neg_behind",): 0.28, ("frames_public",): 0.08}
_KOREAN_BEHIND: Shares = {("ko_happened",): 0.5, ("ko_behind",): 0.35}
_BARE, _AFTER = 0.1, 0.12  # without a task; with the task after the text
_SMALL = 0.25  # of the tasks, typed without capitals
BEHIND_FAMILIES = (
    *(TASKS, "en_happened", "neg_behind"),
    *(KOREAN_TASKS, "ko_happened", "ko_behind"),
)


def behind_task(sources: Sources, families: tuple[str, ...], language: str = "en") -> Example:
    """Return a text with its task.

    Args:
        sources: of the data set.
        families: of the private texts that are no stories, for the rest of the texts.
        language: "en" or "ko".
    """
    rng = sources.rng
    shares = _BEHIND if language == "en" else _KOREAN_BEHIND
    kinds: Shares = {**shares, families: 1 - sum(shares.values())}
    template = pick_of(rng.choices(list(kinds), list(kinds.values()))[0], sources)
    if language == "ko":
        text, task = korean(template, sources), korean(pick(KOREAN_TASKS, sources), sources)
    else:
        text = render(template, Filler(sources), rng)
        task = render(pick(TASKS, sources), Filler(sources), rng, styled=False)
    draw = rng.random()
    if draw < _BARE:
        return text
    written = task.text.lower() if rng.random() < _SMALL else task.text
    if draw < _BARE + _AFTER:
        after = Example(written.strip().rstrip(":-"), (), task.template, language=language)
        return concatenate([text, after], "\n\n")
    return concatenate([Example(written, (), task.template, language=language), text], "")
