"""SmolLM2 on the device, Gemma-3 in the cloud's role: two tokenizers, 20 log-probabilities.

How many positions line up byte for byte; what fusing does to the device model's loss on text, by
each rule and weight; the gate, trained on the even documents and judged on the odd ones; and the
requests a token when both decode freely, the cloud drafting.

    ptmo model pull gemma3-270m
    python benchmarks/fusion_pair.py --json > pair.json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fusion.answers import continuations, look_ahead
from fusion.cloud_role import EngineCloud
from fusion.positions import PairedText, pair_text
from fusion.report import parser, publish
from fusion.texts import documents
from script import MODEL_HELP, run

from ptmo_secure.cli import output
from ptmo_secure.cloud.fusion import EntropyWeight, FixedWeight, LearnedWeight, Weight
from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.mix import Rule, fuse
from ptmo_secure.cloud.fusion.training import example, train_gate
from ptmo_secure.config import at_least
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError

RULES: tuple[Rule, ...] = ("product", "linear")
FIXED = (0.0, 0.25, 0.5, 0.75)
HIDDEN = (0, 8)
TOP_LOGPROBS = 20
BEGUN_BYTES = 600  # a text to go on with has more


def losses(texts: Sequence[PairedText], weight: Weight, rule: Rule) -> np.ndarray:
    """The loss of each true token, nats; the device's own where nothing lines up."""
    return np.array(
        [
            pair.device_loss
            if pair.atoms is None
            else -fuse(pair.atoms, weight.share(pair.atoms), rule)[pair.token]
            for text in texts
            for pair in text.pairs
        ]
    )


def compared(
    texts: Sequence[PairedText], name: str, weight: Weight, rule: Rule
) -> dict[str, object]:
    """One row: the loss, and the gain on the device's with its standard error."""
    fused = losses(texts, weight, rule)
    alone = np.array([pair.device_loss for text in texts for pair in text.pairs])
    gain = alone - fused
    return {
        "measure": "loss",
        "rule": rule,
        "weight": name,
        "positions": len(fused),
        "device_nats": float(alone.mean()),
        "fused_nats": float(fused.mean()),
        "gain_nats": float(gain.mean()),
        "gain_standard_error": float(gain.std() / np.sqrt(len(gain))),
    }


def trained(texts: Sequence[PairedText], rule: Rule, hidden: int) -> LearnedWeight:
    """A gate from all positions that line up."""
    pairs = [pair for text in texts for pair in text.pairs]
    examples = [example(pair.atoms, pair.token) for pair in pairs if pair.atoms is not None]
    return train_gate(examples, rule=rule, hidden=hidden)


def alignment(texts: Sequence[PairedText]) -> dict[str, object]:
    """One row: how the two tokenisations compare, and both models alone."""
    sizes = np.array([len(text.pairs) + 1 for text in texts])
    text_bytes = sum(text.text_bytes for text in texts)
    device = sum(pair.device_loss for text in texts for pair in text.pairs)
    return {
        "measure": "alignment",
        "tokens": int(sizes.sum()),
        "same_span": float(np.average([text.same_spans for text in texts], weights=sizes)),
        "same_start": float(np.average([text.same_starts for text in texts], weights=sizes)),
        "device_nats_per_byte": device / text_bytes,
        "cloud_nats_per_byte": sum(text.cloud_loss for text in texts) / text_bytes,
    }


def all_losses(texts: Sequence[PairedText]) -> list[dict[str, object]]:
    """Rows on all texts; then those of gates and of their rivals on the texts held out."""
    rows = []
    for rule in RULES:
        rows += [compared(texts, f"fixed {w}", FixedWeight(w), rule) for w in FIXED]
        rows.append(compared(texts, "entropy", EntropyWeight(), rule))
    seen, held_out = texts[::2], texts[1::2]
    if not held_out:
        return rows
    for rule in RULES:
        judged = [
            compared(held_out, f"fixed {w}", FixedWeight(w), rule)
            for w in np.round(np.arange(0.05, 1.0, 0.05), 2).tolist()
        ]
        best = min(judged, key=lambda row: float(str(row["fused_nats"])))
        rows.append({**best, "measure": "held_out", "weight": f"best constant: {best['weight']}"})
        rows.append({**compared(held_out, "entropy", EntropyWeight(), rule), "measure": "held_out"})
        for hidden in HIDDEN:
            gate = trained(seen, rule, hidden)
            name = f"gate, {hidden} hidden units, {gate.parameters} parameters"
            rows.append({**compared(held_out, name, gate, rule), "measure": "held_out"})
    return rows


def measure(
    model: str, cloud_model: str, texts: list[str], tokens: int, save: Path | None
) -> list[dict[str, object]]:
    """All rows."""
    options = {"shield": "none", "threads": 1, "context_tokens": 1024}
    with (
        Engine.load(model, **options) as device,
        Engine.load(cloud_model, **options) as cloud_engine,
        EngineCloud(cloud_engine) as cloud,
    ):
        tokens_of_device = TokenMap(device.tokenizer)
        paired = []
        for number, text in enumerate(texts, start=1):
            output.note(f"document {number} of {len(texts)}")
            paired.append(pair_text(device, cloud, tokens_of_device, text, TOP_LOGPROBS))
        rows = [alignment(paired), *all_losses(paired)]
        if save is not None:
            trained(paired, "product", HIDDEN[-1]).save(save)
        output.note("look-ahead")
        begun = [text for text in texts if len(text) > BEGUN_BYTES]
        tasks = continuations(device, begun)
        return rows + look_ahead(device, cloud, tasks, EntropyWeight(), tokens)


def main(arguments: list[str]) -> int:
    """Measure, and print a line a row or JSON."""
    line = parser("Fusion across two tokenizers.")
    line.add_argument("--cloud-model", default="gemma3-270m", help=f"of the cloud: {MODEL_HELP}")
    line.add_argument("--save-gate", type=Path, help="write a gate trained on all documents")
    given = line.parse_args(arguments)
    at_least("tokens", given.tokens, 1)
    texts = documents(given.text)[: at_least("documents", given.documents, 0) or None]
    if not any(len(text) > BEGUN_BYTES for text in texts):
        raise InputError(f"{given.text}: no document has more than {BEGUN_BYTES} characters")
    settings = {
        "model": given.model,
        "cloud_model": given.cloud_model,
        "text": given.text.name,
        "top_logprobs": TOP_LOGPROBS,
    }
    publish(
        __file__,
        arguments,
        settings,
        given.json,
        lambda: measure(given.model, given.cloud_model, texts, given.tokens, given.save_gate),
    )
    return 0


if __name__ == "__main__":
    run(main)
