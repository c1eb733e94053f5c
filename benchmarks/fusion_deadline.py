"""How long a token waits for a cloud that delays 0 to 500 ms, stalls and fails.

A token's wait is the time between the device's logits and the choice that the cloud is to blame
for. It keeps its deadline if it is not exceeded by more than the slack. What the machine itself
adds is measured beside it: now and then the same thread only sleeps as long as the deadline.

Both models' answers are recorded before, and the device's passes replayed with a pause of their
own length: on a machine that is busy otherwise a process that computes is made to wait whatever it
does, which says nothing of this one. The cloud's answers are the device's own, so that the device
follows them as far as they are in time. With the cloud dead no token's logits may be touched.

    python benchmarks/fusion_deadline.py --json > deadline.json
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from fusion.cloud_role import EngineCloud
from fusion.report import parser, publish
from fusion.slow_cloud import BadLuck, RecordedCloud, SlowCloud
from fusion.texts import QUESTIONS
from script import run

from ptmo_secure.cloud.fusion import FusionConfig, PublicView, as_it_is
from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.fuser import Fuser
from ptmo_secure.cloud.fusion.workers import RealClock
from ptmo_secure.cloud.types import Cloud, Position
from ptmo_secure.config import at_least
from ptmo_secure.engine.engine import Engine

SLACK_S = 0.010
CONTROL_EVERY = 16  # tokens
LUCKS = {
    "delays 0-500 ms": BadLuck(fails=0.0, breaks=0.0, stalls=0.0),
    "delays, stalls and fails": BadLuck(fails=0.1, breaks=0.1, stalls=0.1),
    "dead": BadLuck(fails=1.0),
    "stalls always": BadLuck(fails=0.0, stalls=1.0),
}


@dataclass(slots=True)
class Waits:
    """What was seen of all tokens under one cloud and deadline."""

    waited_s: list[float] = field(default_factory=list)
    fused: list[bool] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)  # of the control

    def row(self, name: str, deadline_s: float) -> dict[str, object]:
        """Shares and percentiles."""
        waited, slept = np.array(self.waited_s), np.array(self.slept_s)
        return {
            "measure": "deadline",
            "cloud": name,
            "deadline_s": deadline_s,
            "tokens": len(waited),
            "kept_share": float((waited <= deadline_s + SLACK_S).mean()),
            "kept_share_without_slack": float((waited <= deadline_s).mean()),
            "waited_to_the_end": int((waited > 0.9 * deadline_s).sum()),
            "mean_wait_s": float(waited.mean()),
            "longest_wait_s": float(waited.max()),
            "control_sleeps": len(slept),
            "control_kept_share": float((slept <= deadline_s + SLACK_S).mean()),
            "control_longest_s": float(slept.max()),
            "fused_share": float(np.mean(self.fused)),
        }


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer as the device makes it.

    Attributes:
        question: what was asked.
        logits: before each token, float32 [vocab].
        pieces: bytes of each token.
        positions: the same as a cloud reports it.
    """

    question: str
    logits: tuple[np.ndarray, ...]
    pieces: tuple[bytes, ...]
    positions: tuple[Position, ...]


def record(engine: Engine, question: str, tokens: int) -> Recording:
    """Decode an answer greedily, with 20 log-probabilities a token."""
    cloud, tokenizer = EngineCloud(engine), engine.tokenizer
    rows, pieces, positions = [], [], []
    with engine.open_session() as session:
        logits = session.feed(engine.render([{"role": "user", "content": question}]).ids)[-1]
        for _ in range(tokens):
            token = int(logits.argmax())
            if token in tokenizer.stop_ids:
                break
            top = cloud.top(logits, 20)
            rows.append(logits)
            pieces.append(tokenizer.token_bytes(token))
            positions.append(Position(top[0], top))
            logits = session.feed([token])[-1]
    return Recording(question, tuple(rows), tuple(pieces), tuple(positions))


def replay(
    recording: Recording,
    vocabulary: TokenMap,
    cloud: Cloud,
    config: FusionConfig,
    clock: RealClock,
    pass_s: float,
) -> Iterator[tuple[float, bool]]:
    """Yield (seconds waited, whether the cloud had a say) of each token."""
    view = PublicView(as_it_is, messages=({"role": "user", "content": recording.question},))
    fuser = Fuser(vocabulary, cloud, view, config, clock=clock)
    answer = bytearray()
    fuser.begin()
    for logits, piece in zip(recording.logits, recording.pieces, strict=True):
        time.sleep(pass_s)
        before = fuser.stats.waited_s
        fused = fuser.next(logits, answer)
        yield fuser.stats.waited_s - before, fused is not logits
        answer += piece
    fuser.close()


def sleep_s(deadline_s: float) -> float:
    """How long a wait for nothing takes."""
    nothing = threading.Condition()
    start = time.monotonic()
    with nothing:
        nothing.wait(deadline_s)
    return time.monotonic() - start


def measure(
    model: str, deadlines_ms: Sequence[int], tokens: int, repeats: int
) -> list[dict[str, object]]:
    """All rows."""
    with Engine.load(model, shield="none", threads=1, context_tokens=1024) as device:
        vocabulary = TokenMap(device.tokenizer)
        start = time.monotonic()
        recordings = [record(device, question.public, tokens) for question in QUESTIONS]
        made = sum(len(recording.pieces) for recording in recordings)
        pass_s = (time.monotonic() - start) / max(made, 1)
    cloud = RecordedCloud({each.question: each.positions for each in recordings})
    table, clock = [], RealClock()
    for name, luck in LUCKS.items():
        for deadline_ms in deadlines_ms:
            config = FusionConfig(deadline_s=deadline_ms / 1e3, timeout_s=2.0, ask_margin=math.inf)
            waits, slow = Waits(), SlowCloud(cloud, luck)
            for recording in recordings * repeats:
                for waited_s, fused in replay(recording, vocabulary, slow, config, clock, pass_s):
                    waits.waited_s.append(waited_s)
                    waits.fused.append(fused)
                    if len(waits.fused) % CONTROL_EVERY == 1:
                        waits.slept_s.append(sleep_s(config.deadline_s))
            more = {"pass_s": pass_s, "margin_at_end_s": clock.margin_s}
            table.append({**waits.row(name, config.deadline_s), **more})
    return table


def main(arguments: list[str]) -> int:
    """Measure, and print a line a row or JSON."""
    line = parser("Waits for a slow cloud.")
    line.add_argument("--deadline-ms", type=int, nargs="+", default=[50, 150])
    line.add_argument("--repeats", type=int, default=2, help="of all questions")
    given = line.parse_args(arguments)
    for name in ("tokens", "repeats"):
        at_least(name, getattr(given, name), 1)
    for value in given.deadline_ms:
        at_least("deadline-ms", value, 1)
    settings = {"model": given.model, "slack_s": SLACK_S, "questions": len(QUESTIONS)}
    publish(
        __file__,
        arguments,
        settings,
        given.json,
        lambda: measure(given.model, given.deadline_ms, given.tokens, given.repeats),
    )
    return 0


if __name__ == "__main__":
    run(main)
