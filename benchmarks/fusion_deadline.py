"""How long a token waits for a cloud that delays 0 to 500 ms, stalls and fails.

A token's wait is the time between the device's logits and the choice that the cloud is to blame
for. It keeps its deadline if it is not exceeded by more than the slack. What the machine itself
adds is measured beside it: a thread that only sleeps as long as the deadline, now and then in the
same run. The cloud's answers are recorded ones, the device's own, so that it shares no processor
with the device, and so that the device follows them as far as they are in time. With the cloud dead
no token's logits may be touched.

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
from ptmo_secure.cloud.types import Cloud, CloudRequest
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


def recorded(engine: Engine, tokens: int) -> RecordedCloud:
    """The model's greedy answers to the questions, with 20 log-probabilities."""
    answers = {}
    with EngineCloud(engine) as cloud:
        for question in QUESTIONS:
            asked = {"role": "user", "content": question.public}
            request = CloudRequest((asked,), max_tokens=tokens, top_logprobs=20)
            answers[question.public] = cloud.complete(request).positions
    return RecordedCloud(answers)


def decode(
    device: Engine, vocabulary: TokenMap, cloud: Cloud, config: FusionConfig, tokens: int
) -> Iterator[tuple[float, bool]]:
    """Yield (seconds waited, whether the cloud had a say) of each token, greedily."""
    for question in QUESTIONS:
        asked = {"role": "user", "content": question.public}
        fuser = Fuser(vocabulary, cloud, PublicView(as_it_is, messages=(asked,)), config)
        answer = bytearray()
        with device.open_session() as session:
            fuser.begin()
            logits = session.feed(device.render([asked]).ids)[-1]
            for _ in range(tokens):
                before = fuser.stats.waited_s
                fused = fuser.next(logits, answer)
                token = int(fused.argmax())
                yield fuser.stats.waited_s - before, fused is not logits
                if token in device.tokenizer.stop_ids:
                    break
                answer += device.tokenizer.token_bytes(token)
                logits = session.feed([token])[-1]
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
    table = []
    with Engine.load(model, shield="none", threads=1, context_tokens=1024) as device:
        vocabulary, cloud = TokenMap(device.tokenizer), recorded(device, tokens)
        for name, luck in LUCKS.items():
            for deadline_ms in deadlines_ms:
                config = FusionConfig(
                    deadline_s=deadline_ms / 1e3, timeout_s=2.0, ask_margin=math.inf
                )
                waits, slow = Waits(), SlowCloud(cloud, luck)
                for _ in range(repeats):
                    for each in decode(device, vocabulary, slow, config, tokens):
                        waits.waited_s.append(each[0])
                        waits.fused.append(each[1])
                        if len(waits.fused) % CONTROL_EVERY == 1:
                            waits.slept_s.append(sleep_s(config.deadline_s))
                table.append(waits.row(name, config.deadline_s))
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
