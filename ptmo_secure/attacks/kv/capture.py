"""Run prompts through an engine, and part what the attacker gets from what the judge keeps.

One session per prompt. `Capture.stolen` holds bytes and the public layout; `Capture.truth` holds
the token ids and which of them are the user's. Attacks receive the former, `statistics.score` the
latter.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import numpy as np

from ptmo_secure.attacks.kv.pages import (
    FloatArray,
    LayoutLike,
    PageLayout,
    StolenMemory,
    read_sessions,
)
from ptmo_secure.attacks.kv.statistics import ScoredSession
from ptmo_secure.errors import EngineError


class DumpLike(Protocol):
    """`DeviceDump`, as far as an attacker gets it."""

    @property
    def pages(self) -> bytes: ...
    @property
    def layout(self) -> LayoutLike: ...


class PromptLike(Protocol):
    """A conversation as the model's chat template renders it."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def content_mask(self) -> Sequence[bool]:
        """True for each id that came from a message, False for the template's own."""
        ...


class TextDecoder(Protocol):
    """The public tokenizer of the model."""

    def decode(self, ids: Iterable[int], /) -> str: ...


class Target(Protocol):
    """The victim's engine, as far as a capture drives it; `Engine` is one."""

    @property
    def tokenizer(self) -> TextDecoder: ...
    def render(self, messages: str, /) -> PromptLike: ...
    def forward(self, token_ids: Sequence[int], /) -> FloatArray: ...
    def dump_device_memory(self) -> DumpLike: ...
    def reset(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Capture:
    """Stolen pages and, apart from them, the truth; entry i of both is prompt i."""

    stolen: tuple[StolenMemory, ...]
    truth: tuple[ScoredSession, ...]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of the victim, and the text of the attacker's own session."""

    prompts: tuple[str, ...]
    chosen_text: str


def load_prompts() -> PromptSet:
    """The texts that come with the project: original, and of no real person.

    `prompts.txt` separates prompts with lines of "---"; `chosen_text.txt` is one text, filled.
    """
    folder = resources.files(__package__)
    blocks = folder.joinpath("prompts.txt").read_text(encoding="utf-8").split("\n---\n")
    chosen = folder.joinpath("chosen_text.txt").read_text(encoding="utf-8")
    return PromptSet(tuple(block.strip() for block in blocks), " ".join(chosen.split()))


def capture_prompts(
    engine: Target, prompts: Sequence[str], progress: Callable[[], None] | None = None
) -> Capture:
    """Prefill every prompt in a session of its own and read the KV pages it leaves.

    Args:
        engine: the victim's engine, shield already on.
        prompts: user messages; each is wrapped in the model's chat template.
        progress: called after each prompt.
    Raises:
        InputError: a prompt is empty.
        EngineError: the pages do not hold one session with one row per token.

    Security: the ground truth leaves this function beside the pages, for scoring only.
    """
    stolen, truth = [], []
    for prompt in prompts:
        rendered = engine.render(prompt)
        token_ids = np.asarray(rendered.ids, np.int64)
        engine.forward(list(rendered.ids))
        dump = engine.dump_device_memory()
        memory = StolenMemory(pages=bytes(dump.pages), layout=PageLayout.of(dump.layout))
        engine.reset()
        rows = [len(session.seq) for session in read_sessions(memory)]
        if rows != [len(token_ids)]:
            raise EngineError(
                f"the pages hold sessions of {rows} rows after a prompt of {len(token_ids)} tokens"
            )
        stolen.append(memory)
        truth.append(ScoredSession(token_ids, np.asarray(rendered.content_mask, np.bool_)))
        if progress is not None:
            progress()
    return Capture(stolen=tuple(stolen), truth=tuple(truth))
