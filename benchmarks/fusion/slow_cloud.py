"""Clouds that are slow, stall and fail: recorded answers behind seeded bad luck."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ptmo_secure.cloud.fusion.align import token_ends
from ptmo_secure.cloud.types import Cloud, CloudDelta, CloudReply, CloudRequest, Position
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


class RecordedCloud:
    """Answers from memory, as a cloud does that computes elsewhere: no processor time is shared.

    Args:
        answers: the positions of a whole answer, by the question.
    """

    def __init__(self, answers: Mapping[str, tuple[Position, ...]]) -> None:
        self._answers = dict(answers)

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Return the whole answer."""
        return joined(list(self.stream(request, deadline_s=deadline_s)))

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> Iterator[CloudDelta]:
        """Yield what comes behind the partial answer.

        Raises:
            CloudError: the partial answer is not the beginning of the recorded one.
        """
        asked, *partial = request.messages or ()
        recorded = self._answers[str(asked["content"])]
        begun = str(partial[0]["content"]).encode() if partial else b""
        ends = [0, *token_ends(position.chosen.bytes for position in recorded)]
        if len(begun) not in ends:
            raise CloudError("the recording has no such beginning")
        start = ends.index(len(begun))
        chosen = recorded[start : start + request.max_tokens]
        for number, position in enumerate(chosen, start=1):
            reason = None
            if number == len(chosen):
                reason = "length" if start + number < len(recorded) else "stop"
            yield CloudDelta(position.chosen.token, (), reason, (position,))


def joined(chunks: list[CloudDelta]) -> CloudReply:
    """A stream's chunks as one answer."""
    positions = tuple(position for chunk in chunks for position in chunk.positions)
    text, finish = "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason
    made = len(positions)
    return CloudReply(text, finish or "stop", (), positions, 0, made, 0.0, 0.0, "slow", "slow")


class SlowCloud:
    """Passes requests on to another cloud, in its own time."""

    def __init__(self, cloud: Cloud, luck: BadLuck) -> None:
        self._cloud, self._luck = cloud, luck
        self._draws = np.random.default_rng(luck.seed)
        self._drawing = threading.Lock()

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Wait as long as the tokens would take, then return the whole answer."""
        return joined(list(self.stream(request, deadline_s=deadline_s)))

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
