"""Doubles for the tests of fusion: clouds that follow a script, and time that passes when told."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ptmo_secure.cloud.types import CloudDelta, CloudReply, CloudRequest, Position, TokenLogprob
from ptmo_secure.errors import CloudError
from tests.cloud import hostile_server as hostile


def token(data: bytes, p: float) -> TokenLogprob:
    """A token of this probability."""
    return TokenLogprob(data.decode(errors="replace"), data, math.log(p) if p else -9999.0)


def position(*tokens: tuple[bytes, float]) -> Position:
    """A position at which the first of these tokens is chosen."""
    top = tuple(token(data, p) for data, p in tokens)
    return Position(top[0], top)


@dataclass
class Step:
    """One chunk of a scripted stream: after `delay_s`, these positions, or an error."""

    delay_s: float = 0.0
    positions: Sequence[Position] = ()
    finish: str | None = None
    error: Exception | None = None


@dataclass
class ScriptedCloud:
    """Answers the n-th request by the n-th script, the last one over and over; keeps requests."""

    scripts: Sequence[Sequence[Step]]
    sleep: Callable[[float], None] = lambda seconds: None
    requests: list[CloudRequest] = field(default_factory=list)
    closed: int = 0

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> Iterator[CloudDelta]:
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        try:
            for step in script:
                self.sleep(step.delay_s)
                if step.error is not None:
                    raise step.error
                yield CloudDelta("", (), step.finish, tuple(step.positions))
        finally:
            self.closed += 1

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        chunks = list(self.stream(request, deadline_s=deadline_s))
        positions = tuple(position for chunk in chunks for position in chunk.positions)
        finish = chunks[-1].finish_reason or "length"
        return CloudReply(
            "", finish, (), positions, 0, len(positions), 0.0, 0.0, "double", "double"
        )


class DeadCloud(ScriptedCloud):
    """Fails at every request."""

    def __init__(self) -> None:
        super().__init__([[Step(error=CloudError("the provider is gone"))]])


def run_at_once(work: Callable[[], None]) -> None:
    """Do the work of a request before the caller goes on."""
    work()


class VirtualTime:
    """A clock that stands still but for waits and sleeps; workers run one at a time, in its order.

    `spawn` starts a worker, which runs until its first sleep. While the decoder waits, workers
    whose sleep ends in that time run, each at its instant. Nothing depends on real threads' luck.
    """

    def __init__(self, margin_s: float = 0.0) -> None:
        self.margin_s = margin_s
        self._now = 0.0
        self._sleeping: list[tuple[float, int, threading.Event]] = []
        self._turn = threading.Event()  # set when the running worker sleeps or ends
        self._count = 0
        self.waits: list[float] = []

    def now(self) -> float:
        return self._now

    def spawn(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                self._turn.set()

        self._turn.clear()
        threading.Thread(target=run, daemon=True).start()
        assert self._turn.wait(10)

    def sleep(self, seconds: float) -> None:
        """Called by a worker: sleep until the clock has come so far."""
        if seconds <= 0:
            return
        wake = threading.Event()
        self._count += 1
        self._sleeping.append((self._now + seconds, self._count, wake))
        self._turn.set()
        wake.wait()  # for ever, where the time never comes

    def wait(self, changed: threading.Condition, timeout_s: float) -> None:
        """Let time pass until the next worker's turn, or until the timeout."""
        start = self._now
        due = min(self._sleeping, default=None)
        if due is None or due[0] > start + timeout_s:
            self._now = start + timeout_s
        else:
            changed.release()
            try:
                self._run(due)
            finally:
                changed.acquire()
        self.waits.append(self._now - start)

    def advance(self, seconds: float) -> None:
        """Let time pass while the decoder computes."""
        end = self._now + seconds
        while (due := min(self._sleeping, default=None)) is not None and due[0] <= end:
            self._run(due)
        self._now = end

    def _run(self, due: tuple[float, int, threading.Event]) -> None:
        self._sleeping.remove(due)
        self._now = max(self._now, due[0])
        self._turn.clear()
        due[2].set()
        assert self._turn.wait(10)


def logits_of(probabilities: Sequence[float]) -> np.ndarray:
    """float32 logits of a distribution; they are not normalised, as a model's are not."""
    with np.errstate(divide="ignore"):
        return (np.log(np.array(probabilities)) + 3.0).astype(np.float32)


def listed(text):
    """A position of the API's: the token, and 19 others of little probability."""
    others = [(f"{letter}!", -9.0) for letter in "bcdefghijklmnopqrst"]
    return hostile.token(text, -0.05, [(text, -0.05), *others], bytes=list(text.encode()))


def continuing(whole):
    """Answer with the next characters of `whole`, each a token, behind what was sent of it."""

    def behave(sender, request):
        asked = request.json
        last = asked["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        assert whole.startswith(begun)
        assert asked.get("continue_final_message", False) == bool(begun)
        rest = whole[len(begun) :]
        chosen = rest[: asked["max_tokens"]]
        pieces = [
            hostile.event({"content": letter}, logprobs={"content": [listed(letter)]})
            for letter in chosen
        ]
        end = "stop" if chosen == rest else "length"
        hostile.events([*pieces, hostile.event({}, end)])(sender, request)

    return behave
