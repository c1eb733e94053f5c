"""How sure the classifier must be: chosen on held-out made-up texts, for each kind."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from ptmo_secure.privacy.training.batches import IGNORED, Tagged

GRID = (0.06, 0.08, *(round(0.05 * step, 2) for step in range(2, 17)))  # the rest 0.1 to 0.8
# Of a private token that is overlooked, in false alarms; of one of a kind by which people are found
LEAK_COST = {"en": 4.0, "ko": 8.0}
WHO_COST = 7.0
WHO = ("PERSON", "ORG", "LOCATION", "ADDRESS", "DATE", "AGE")
# What one word of a text must reach for any to count, if nothing else is private
ALONE = {"en": 0.8, "ko": 0.65}
# In a text that writes names with capitals: what a small word must reach for a name, in company and
# for any word to count; and a capital within a sentence
FORMS = {"small": 0.8, "small_alone": 0.9, "capital": 0.08, "capital_alone": 0.42}
_LEAST_TOKENS = 30  # of a kind, to choose by
_USUAL = 0.5


def choose(
    model: Path, labels: Sequence[str], texts: Iterable[Tagged], language: str
) -> dict[str, float]:
    """Return for each kind the least 1 - P(O) that counts.

    A token belongs to the kind that the model finds likeliest. The threshold of a kind minimises
    ``cost of a leak * overlooked + false alarms`` over its tokens in texts of which one reaches
    `ALONE`.

    Args:
        model: `model.onnx`.
        labels: of its classes.
        texts: held-out, with their classes.
        language: of the texts, "en" or "ko".
    """
    kinds = sorted({label[2:] for label in labels[1:]})
    by_kind = np.zeros((len(labels), len(kinds)), dtype=np.float32)
    for index, label in enumerate(labels[1:], start=1):
        by_kind[index, kinds.index(label[2:])] = 1
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    seen: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for text in texts:
        ids = np.array([text.ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        probabilities = _softmax(session.run(None, feed)[0][0])
        if 1.0 - probabilities[:, 0].min() < ALONE[language]:
            continue  # none of its tokens counts, whatever the thresholds are
        likeliest = (probabilities @ by_kind).argmax(axis=1)
        for row, label_class in enumerate(text.classes):
            if label_class != IGNORED:
                private = 1.0 - float(probabilities[row, 0])
                seen[int(likeliest[row])].append((private, label_class != 0))
    cost = LEAK_COST[language]
    costs = [max(WHO_COST, cost) if kind in WHO else cost for kind in kinds]
    return {kind: _best(seen[index], costs[index]) for index, kind in enumerate(kinds)}


def _best(tokens: list[tuple[float, bool]], leak_cost: float) -> float:
    if sum(gold for _, gold in tokens) < _LEAST_TOKENS:
        return _USUAL

    def cost(threshold: float) -> float:
        overlooked = sum(gold and private < threshold for private, gold in tokens)
        alarms = sum(not gold and private >= threshold for private, gold in tokens)
        return leak_cost * overlooked + alarms

    return min(GRID, key=lambda threshold: (cost(threshold), abs(threshold - _USUAL)))


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: npt.NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised
