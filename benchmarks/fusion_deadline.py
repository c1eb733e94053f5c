"""How long a token waits for a cloud that delays 0 to 500 ms, stalls and fails.

A token's wait is the time between the device's logits and the choice, the cloud's part of it. It
keeps its deadline if it is not exceeded by more than the slack, which is for the machine's threads.
With the cloud dead the answers must be the device's own, token for token.

    python benchmarks/fusion_deadline.py --json > deadline.json
"""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from fusion.cloud_role import EngineCloud
from fusion.report import parser, publish
from fusion.slow_cloud import BadLuck, SlowCloud
from fusion.texts import QUESTIONS
from script import run

from ptmo_secure.cloud.fusion import FusionConfig, PublicView, as_it_is
from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.fuser import Fuser
from ptmo_secure.cloud.types import Cloud
from ptmo_secure.config import at_least
from ptmo_secure.engine.engine import Engine

SLACK_S = 0.010
LUCKS = {
    "delays 0-500 ms": BadLuck(fails=0.0, breaks=0.0, stalls=0.0),
    "delays, stalls and fails": BadLuck(fails=0.1, breaks=0.1, stalls=0.1),
    "dead": BadLuck(fails=1.0),
    "stalls always": BadLuck(fails=0.0, stalls=1.0),
}


def waits(
    device: Engine, tokens: TokenMap, cloud: Cloud, config: FusionConfig, made: int
) -> Iterator[tuple[float, bool, bool]]:
    """Yield (seconds waited, fused, same as the device's choice) of each token, greedily."""
    for question in QUESTIONS:
        asked = {"role": "user", "content": question.public}
        view = PublicView(as_it_is, messages=(asked,))
        fuser = Fuser(tokens, cloud, view, config)
        answer = bytearray()
        with device.open_session() as session:
            fuser.begin()
            logits = session.feed(device.render([asked]).ids)[-1]
            for _ in range(made):
                before = fuser.stats.waited_s
                fused = fuser.next(logits, answer)
                token = int(fused.argmax())
                same = token == int(logits.argmax())
                yield fuser.stats.waited_s - before, fused is not logits, same
                if token in device.tokenizer.stop_ids:
                    break
                answer += device.tokenizer.token_bytes(token)
                logits = session.feed([token])[-1]
        fuser.close()


def row(
    name: str, deadline_s: float, found: Sequence[tuple[float, bool, bool]]
) -> dict[str, object]:
    """Shares and percentiles over all tokens."""
    waited = np.array([each[0] for each in found])
    return {
        "measure": "deadline",
        "cloud": name,
        "deadline_s": deadline_s,
        "tokens": len(found),
        "kept_share": float((waited <= deadline_s + SLACK_S).mean()),
        "kept_share_without_slack": float((waited <= deadline_s).mean()),
        "mean_wait_s": float(waited.mean()),
        "p99_wait_s": float(np.quantile(waited, 0.99)),
        "longest_wait_s": float(waited.max()),
        "fused_share": float(np.mean([each[1] for each in found])),
        "same_as_device_share": float(np.mean([each[2] for each in found])),
    }


def measure(
    model: str, deadlines_ms: Sequence[int], tokens: int, repeats: int
) -> list[dict[str, object]]:
    """All rows."""
    options = {"shield": "none", "threads": 1, "context_tokens": 1024}
    table = []
    with (
        Engine.load(model, **options) as device,
        Engine.load(model, **options) as cloud_engine,
        EngineCloud(cloud_engine) as cloud,
    ):
        vocabulary = TokenMap(device.tokenizer)
        for name, luck in LUCKS.items():
            for deadline_ms in deadlines_ms:
                config = FusionConfig(
                    deadline_s=deadline_ms / 1e3, timeout_s=2.0, ask_margin=math.inf
                )
                slow = SlowCloud(cloud, luck)
                found = [
                    each
                    for _ in range(repeats)
                    for each in waits(device, vocabulary, slow, config, tokens)
                ]
                table.append(row(name, config.deadline_s, found))
        time.sleep(2.5)  # requests that stall end by themselves, and then let go of the engine
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
