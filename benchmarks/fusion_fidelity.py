"""What is lost when a cloud returns 20 log-probabilities, not its whole distribution; and requests.

Both roles are the same model, so that the whole distribution can be had as well; the device alone
knows a private context. Fusion by the cloud's top k is compared with fusion over the full
vocabulary, at w = 1/2, on

- "prose": documents of which the device has read the first part, teacher-forced over the rest;
- "chat": answers to questions, along the answer that full fusion gives, where the device also has a
  system prompt about who asks.

Then both decode freely, the cloud drafting, and requests are counted.

    python benchmarks/fusion_fidelity.py --json > fidelity.json
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from fusion.answers import chats, look_ahead
from fusion.cloud_role import EngineCloud
from fusion.positions import rows
from fusion.report import parser, publish
from fusion.texts import QUESTIONS, Question, documents
from script import run

from ptmo_secure.cli import output
from ptmo_secure.cloud.fusion import FixedWeight
from ptmo_secure.cloud.fusion.mix import CloudTop, DeviceView, Floats, Rule, fuse, join, mix
from ptmo_secure.config import at_least
from ptmo_secure.engine.engine import Engine

TOPS = ((5, True), (10, True), (20, True), (20, False))  # listed tokens, tail below a ceiling
DEFAULT_TOP = (20, True)
RULES: tuple[Rule, ...] = ("product", "linear")
ASK_MARGINS = (0.25, 0.45, 0.75, 1.0, 1.5)
PRIVATE_SHARE = 0.4  # of a document: what the device alone has read
WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """One judged position."""

    token: int
    device: DeviceView
    log_cloud: Floats  # [vocab]


def prose(device: Engine, text: str) -> Iterator[Place]:
    """Yield the positions of the part of a text that both have read."""
    cut = text.index(" ", int(PRIVATE_SHARE * len(text)))
    private, public = device.tokenizer.encode(text[:cut]), device.tokenizer.encode(text[cut:])
    knowing = list(rows(device, [*private, *public]))[len(private) :]
    for token, own, other in zip(public[1:], knowing, rows(device, public), strict=False):
        yield Place(token, DeviceView.of(own), DeviceView.of(other).log_p)


def chat(device: Engine, question: Question, tokens: int) -> Iterator[Place]:
    """Yield the positions of the answer that full fusion gives."""
    asked = {"role": "user", "content": question.public}
    known = {"role": "system", "content": question.private}
    with device.open_session() as knowing, device.open_session() as other:
        own = knowing.feed(device.render([known, asked]).ids)[-1]
        public = other.feed(device.render([asked]).ids)[-1]
        for _ in range(tokens):
            view, log_cloud = DeviceView.of(own), DeviceView.of(public).log_p
            token = int(mix(log_cloud, view.log_p, WEIGHT, "product").argmax())
            yield Place(token, view, log_cloud)
            if token in device.tokenizer.stop_ids:
                return
            own, public = knowing.feed([token])[-1], other.feed([token])[-1]


def top_of(log_cloud: Floats, count: int, *, ceiling: bool = True) -> CloudTop:
    """The cloud's likeliest tokens; without the ceiling the tail has the device's shape alone."""
    best = np.argpartition(-log_cloud, count)[:count]
    return CloudTop(best, log_cloud[best], float(log_cloud[best].min()) if ceiling else 0.0)


@dataclass(slots=True)
class Judged:
    """Sums over positions; a place's vocabularies are too large to keep."""

    fidelity: dict[tuple[Rule, int, bool], list[tuple[bool, float, float, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    unsure: dict[float, list[tuple[bool, bool]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, place: Place) -> None:
        """Judge a position under both rules and every k."""
        fused = place.log_cloud
        for rule in RULES:
            whole = mix(place.log_cloud, place.device.log_p, WEIGHT, rule)
            for count, ceiling in TOPS:
                top = top_of(place.log_cloud, count, ceiling=ceiling)
                ours = fuse(join(place.device, top), WEIGHT, rule)
                if (rule, count, ceiling) == ("product", *DEFAULT_TOP):
                    fused = ours
                self.fidelity[rule, count, ceiling].append(
                    (
                        bool(whole.argmax() == ours.argmax()),
                        float(np.exp(whole) @ (whole - ours)),
                        -float(ours[place.token]),
                        -float(whole[place.token]),
                        float(np.exp(top.logprobs).sum()),
                    )
                )
        for threshold in ASK_MARGINS:
            asked = place.device.margin < threshold
            same = asked or bool(place.device.log_p.argmax() == fused.argmax())
            self.unsure[threshold].append((asked, same))

    def rows(self, name: str) -> list[dict[str, object]]:
        """One row per rule and k, and one per margin."""
        table: list[dict[str, object]] = []
        for (rule, count, ceiling), values in self.fidelity.items():
            same, divergence, loss, full_loss, mass = np.mean(values, axis=0).tolist()
            table.append(
                {
                    "measure": "fidelity",
                    "text": name,
                    "rule": rule,
                    "top": count,
                    "ceiling": ceiling,
                    "positions": len(values),
                    "mean_mass": mass,
                    "same_greedy_token": same,
                    "kl_nats": divergence,
                    "loss_top": loss,
                    "loss_full": full_loss,
                }
            )
        for threshold, pairs in self.unsure.items():
            asked, same = np.mean(pairs, axis=0).tolist()
            table.append(
                {
                    "measure": "ask_where_unsure",
                    "text": name,
                    "ask_margin": threshold,
                    "requests_per_token": asked,
                    "same_as_always_fused": same,
                }
            )
        return table


def measure(model: str, texts: list[str], tokens: int) -> list[dict[str, object]]:
    """All rows."""
    options = {"shield": "none", "threads": 1, "context_tokens": 1024}
    with (
        Engine.load(model, **options) as device,
        Engine.load(model, **options) as cloud_engine,
        EngineCloud(cloud_engine) as cloud,
    ):
        on_prose, on_chat = Judged(), Judged()
        for number, text in enumerate(texts, start=1):
            output.note(f"document {number} of {len(texts)}")
            for place in prose(device, text):
                on_prose.add(place)
        output.note(f"{len(QUESTIONS)} questions")
        for question in QUESTIONS:
            for place in chat(device, question, tokens):
                on_chat.add(place)
        output.note("look-ahead")
        drafted = look_ahead(device, cloud, chats(QUESTIONS), FixedWeight(WEIGHT), tokens)
        return on_prose.rows("prose") + on_chat.rows("chat") + drafted


def main(arguments: list[str]) -> int:
    """Measure, and print a line a row or JSON."""
    given = parser("Fusion by top-k log-probabilities beside full fusion.").parse_args(arguments)
    at_least("tokens", given.tokens, 1)
    texts = documents(given.text)[: at_least("documents", given.documents, 0) or None]
    settings = {"model": given.model, "text": given.text.name, "weight": WEIGHT}
    publish(
        __file__,
        arguments,
        settings,
        given.json,
        lambda: measure(given.model, texts, given.tokens),
    )
    return 0


if __name__ == "__main__":
    run(main)
