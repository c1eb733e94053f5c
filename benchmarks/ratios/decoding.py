"""Decoding at a fixed length of context, again and again."""

import statistics
import time
from typing import Any

from rounds import compare

from ptmo_secure import Engine
from ptmo_secure.bench import SAMPLE_TEXT, decode_greedily, prompt_ids
from ptmo_secure.engine.session import Session
from ratios.measured import Measured, Settings, median_of


class Decoding:
    """A session with a prompt in its cache; each turn decodes after it and forgets what it made."""

    def __init__(self, engine: Engine, context: int, session: Session | None = None) -> None:
        """Run a prompt of `context` tokens through a fresh session of `engine`, or one given."""
        self.context = context
        self._session = session if session is not None else engine.start_session()
        ids = prompt_ids(engine.tokenizer.encode(SAMPLE_TEXT), context)
        self._logits = self._session.feed(ids)

    def seconds_per_token(self, tokens: int) -> float:
        """Time one turn."""
        start = time.perf_counter()
        decode_greedily(self._session, self._logits, tokens)
        taken = time.perf_counter() - start
        self._session.truncate(self.context)
        return taken / tokens


def open_engine(settings: Settings, threads: int, context: int, **fields: Any) -> Engine:
    """An engine with room for a context and a turn."""
    room = context + settings.decode_tokens
    return Engine.load(settings.model, threads=threads, context_tokens=room, **fields)


def compare_engines(
    settings: Settings,
    threads: int,
    context: int,
    fields: dict[str, object],
    baseline: dict[str, object],
) -> Measured:
    """Decoding speed of one engine over another's, both open, in turn.

    Args:
        settings: rounds, runs and tokens.
        threads: of each.
        context: tokens in the cache.
        fields: `EngineConfig` fields of the engine whose speed is the numerator.
        baseline: those of the other.
    """
    with (
        open_engine(settings, threads, context, **fields) as engine,
        open_engine(settings, threads, context, **baseline) as other,
    ):
        one, two = Decoding(engine, context), Decoding(other, context)
        for side in (one, two):
            side.seconds_per_token(settings.decode_tokens)  # warms up
        taken = compare(
            lambda: 1 / one.seconds_per_token(settings.decode_tokens),
            lambda: 1 / two.seconds_per_token(settings.decode_tokens),
            settings.rounds,
            settings.runs,
        )
    return median_of(
        taken.ratios,
        tokens_per_s=statistics.median(taken.a),
        baseline_tokens_per_s=statistics.median(taken.b),
    )
