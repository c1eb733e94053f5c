"""Clouds that are slow, stall and fail: a model's answers behind seeded bad luck."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptmo_secure.cloud.types import Cloud, CloudDelta, CloudReply, CloudRequest
from ptmo_secure.errors import CloudError


@dataclass(frozen=True, slots=True)
class BadLuck:
    """How a cloud misbehaves.

    Args:
        first_delay_s: before a request's first token, drawn uniformly below this.
        token_delay_s: before each further one, likewise.
        fails: share of requests that fail at once.
        breaks: share of requests that fail after some tokens.
        stalls: share of requests that give nothing until the client gives up.
        seed: of the draws.
    """

    first_delay_s: float = 0.5
    token_delay_s: float = 0.05
    fails: float = 0.05
    breaks: float = 0.05
    stalls: float = 0.05
    seed: int = 0


class SlowCloud:
    """Passes requests on to another cloud, in its own time."""

    def __init__(self, cloud: Cloud, luck: BadLuck) -> None:
        self._cloud, self._luck = cloud, luck
        self._draws = np.random.default_rng(luck.seed)
        self._drawing = threading.Lock()

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Wait as long as the tokens would take, then return the whole answer."""
        chunks = list(self.stream(request, deadline_s=deadline_s))
        positions = tuple(position for chunk in chunks for position in chunk.positions)
        text, finish = "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason
        return CloudReply(
            text, finish or "stop", (), positions, 0, len(positions), 0.0, 0.0, "slow", "slow"
        )

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> Iterator[CloudDelta]:
        """Yield the other cloud's chunks late, or fail."""
        luck = self._luck
        with self._drawing:
            fate, first_s, breaks_at = self._draws.random(3)
            delays = self._draws.random(request.max_tokens) * luck.token_delay_s
        if fate < luck.fails:
            raise CloudError("the provider answered with status 500")
        if fate < luck.fails + luck.stalls:
            time.sleep(5.0 if deadline_s is None else deadline_s)
            raise CloudError("the provider gave no answer in time")
        breaks = fate < luck.fails + luck.stalls + luck.breaks
        delays[0] = first_s * luck.first_delay_s
        for number, chunk in enumerate(self._cloud.stream(request, deadline_s=deadline_s)):
            if breaks and number > breaks_at * request.max_tokens:
                raise CloudError("the connection broke off")
            time.sleep(float(delays[min(number, len(delays) - 1)]))
            yield chunk
