"""`ptmo guard train`: from Rampart and made-up texts to the folder that the guard loads.

Several trainings start from the same weights, each on texts of its own, and the result is the mean
of what they end with (Wortsman et al., "Model soups", 2022).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.synth.words import word_list
from ptmo_secure.privacy.training import batches, rampart, shipped, vocabulary
from ptmo_secure.privacy.training.bert import TokenClassifier
from ptmo_secure.privacy.training.corpus import GUARD_KINDS, corpus
from ptmo_secure.privacy.training.export import export, write_sums
from ptmo_secure.privacy.training.thresholds import ALONE, FORMS, choose
from ptmo_secure.privacy.training.train import TrainConfig, TrainRun, train, with_new_head

Progress = Callable[[int, int, str], None]

CARD = Path(__file__).parent / "card"
STATE_FILES = "training-{}.pt"
RATE_GOING_ON = 1e-4  # highest learning rate from a trained model on
WINDOW_POSITIONS = 194  # the guard's windows, with [CLS] and [SEP]


@dataclass(frozen=True, slots=True)
class Base:
    """What a training starts from.

    Args:
        model: Rampart's `model_q4.onnx`, or a trained model's `model.onnx`.
        tokenizer: `tokenizer.json` of the same.
        trained: whether it is one of the guard's own, to go on with.
    """

    model: Path
    tokenizer: Path
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train.

    Args:
        runs: trainings whose weights are averaged.
        texts: made-up texts that each of them learns from.
        threshold_texts: held-out ones of each language that choose its thresholds.
        layers: of Rampart's six, those that are kept.
        training: how to train.
    """

    runs: int = 2
    texts: int = 80_000
    threshold_texts: int = 3_000
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    training: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))

    def __post_init__(self) -> None:
        for name in ("runs", "texts", "threshold_texts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: at least one is needed")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it."""

    folder: Path
    runs: tuple[TrainRun, ...]
    figures: dict[str, float]
    settings: dict[str, object]  # what `labels.json` holds


def make(base: Base, out: Path, recipe: Recipe, report: Progress) -> Trained:
    """Train and write `model.onnx`, `labels.json`, `tokenizer.json`, the card, the sums.

    An interrupted one goes on where its last state was saved in `out`.

    Args:
        base: what to start from.
        out: made when it does not exist.
        recipe: what to train.
        report: told how far a stage is.

    Raises:
        InputError: the base is missing or of another form.
        EngineError: the exported model does not agree with the trained one.
    """
    labels, seed = batches.label_names(GUARD_KINDS), recipe.training.seed
    tokenizer, model, n_known = (_go_on if base.trained else _begin)(base, recipe, len(labels))
    out.mkdir(parents=True, exist_ok=True)
    everyday = batches.whole_words(tokenizer, word_list("everyday", "train"))
    states = [out / STATE_FILES.format(number + 1) for number in range(recipe.runs)]
    start, ends, runs = _copied(model), [], []
    for number, state in enumerate(states):
        config = replace(recipe.training, seed=seed + number)
        told = _numbered(report, number, recipe)
        texts = []
        for example in corpus("train", recipe.texts, config.seed):
            texts.append(batches.tag(example, tokenizer, labels))
            told(min(len(texts), recipe.texts), recipe.texts, "texts")
        model.load_state_dict(start)
        runs.append(train(model, texts, config, told, state, everyday=everyday, n_known=n_known))
        ends.append(_copied(model))
    model.load_state_dict({name: _mean([end[name] for end in ends]) for name in start})
    figures = export(model, out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    settings: dict[str, object] = {"labels": labels}
    for prefix, language in (("", "en"), ("hangul_", "ko")):
        judges = corpus("heldout", recipe.threshold_texts, seed + 1, languages=(language,))
        tagged = (batches.tag(example, tokenizer, labels) for example in judges)
        settings[f"{prefix}alone"] = ALONE[language]
        settings[f"{prefix}thresholds"] = choose(out / "model.onnx", labels, tagged, language)
    settings |= FORMS
    (out / "labels.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    for path in CARD.iterdir():
        shutil.copyfile(path, out / path.name)
    for state in out.glob(STATE_FILES.format("[0-9]*")):  # also of a training of more runs
        state.unlink()
    write_sums(out)
    return Trained(out, tuple(runs), figures, settings)


def _copied(model: TokenClassifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tensors).mean(dim=0)


def _numbered(report: Progress, number: int, recipe: Recipe) -> Progress:
    """Return a report that says which of the runs is on."""
    return lambda done, total, what: report(done, total, f"run {number + 1}/{recipe.runs}: {what}")


def _begin(base: Base, recipe: Recipe, n_labels: int) -> tuple[Tokenizer, TokenClassifier, int]:
    """Return Rampart's tokenizer with Hangul, its model under a new head, the tokens it knew."""
    tokenizer, kept, added = vocabulary.with_hangul(base.tokenizer)
    model = vocabulary.widen(rampart.load(base.model), tokenizer, kept, added)
    model = vocabulary.first_positions(model, WINDOW_POSITIONS)
    model = vocabulary.first_layers(model, recipe.layers)
    return tokenizer, with_new_head(model, n_labels, recipe.training), len(kept)


def _go_on(base: Base, _: Recipe, n_labels: int) -> tuple[Tokenizer, TokenClassifier, int]:
    """Return a trained model as it is; it knows every token."""
    model = shipped.load(base.model)
    try:
        tokenizer = Tokenizer.from_file(str(base.tokenizer))
    except Exception as error:  # the library raises no narrower one
        raise InputError(f"{base.tokenizer}: not a tokenizer: {error}") from None
    known = tokenizer.get_vocab_size()
    if (model.shape.labels, model.shape.vocabulary) != (n_labels, known):
        raise InputError(f"{base.model}: not a model of {n_labels} labels and {known} tokens")
    return tokenizer, model, known
