"""Free decoding with a cloud that drafts: how many requests it takes."""

import math
from collections.abc import Sequence

from fusion.texts import Question
from ptmo_secure.cloud.fusion import FusedDecoder, FusionConfig, PublicView, Weight, as_it_is
from ptmo_secure.cloud.types import Cloud
from ptmo_secure.engine.engine import Engine, Messages

Task = tuple[Messages | Sequence[int], PublicView]
CHUNKS = (1, 8, 16, 32)
ASK_MARGINS = (0.75, math.inf)  # where unsure, always


def chats(questions: Sequence[Question]) -> list[Task]:
    """Questions of which the cloud sees the public part alone."""
    tasks: list[Task] = []
    for question in questions:
        asked = {"role": "user", "content": question.public}
        known = {"role": "system", "content": question.private}
        tasks.append(([known, asked], PublicView(as_it_is, messages=(asked,))))
    return tasks


def continuations(device: Engine, texts: Sequence[str]) -> list[Task]:
    """Texts that both go on with, cut after a word at some 500 characters."""
    tasks: list[Task] = []
    for text in texts:
        begun = text[: text.index(" ", 500)]
        tasks.append((device.tokenizer.encode(begun), PublicView(as_it_is, prompt=begun)))
    return tasks


def look_ahead(
    device: Engine, cloud: Cloud, tasks: Sequence[Task], weight: Weight, tokens: int
) -> list[dict[str, object]]:
    """One row per setting: requests a token."""
    table: list[dict[str, object]] = []
    for ask_margin in ASK_MARGINS:
        for chunk in CHUNKS:
            config = FusionConfig(
                weight=weight,
                ask_margin=ask_margin,
                chunk_tokens=chunk,
                deadline_s=30.0,  # requests are counted here, not seconds
                timeout_s=60.0,
            )
            decoder = FusedDecoder(device, cloud, config)
            made = requests = fused = 0
            for prompt, view in tasks:
                for _ in decoder.generate(prompt, view, tokens):
                    pass
                if decoder.last_run is not None:
                    made += decoder.last_run.tokens
                    requests += decoder.last_run.requests
                    fused += decoder.last_run.fused
            table.append(
                {
                    "measure": "look_ahead",
                    "ask_margin": None if ask_margin == math.inf else ask_margin,
                    "chunk_tokens": chunk,
                    "tokens": made,
                    "requests_per_token": requests / made,
                    "fused_share": fused / made,
                }
            )
    return table
