"""`ptmo guard train`: from Rampart and made-up texts to the folder that the guard loads."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
STATE_FILE = "training.pt"
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
        texts: made-up texts to learn from.
        threshold_texts: held-out ones of each language that choose its thresholds.
        layers: of Rampart's six, those that are kept.
        training: how to train.
    """

    texts: int = 75_000
    threshold_texts: int = 3_000
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    training: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2))

    def __post_init__(self) -> None:
        if self.texts < 1 or self.threshold_texts < 1:
            raise InputError(f"{self.texts} texts: at least one is needed")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it."""

    folder: Path
    run: TrainRun
    figures: dict[str, float]
    settings: dict[str, object]  # what `labels.json` holds


def make(base: Base, out: Path, recipe: Recipe, report: Progress) -> Trained:
    """Train and write `model.onnx`, `labels.json`, `tokenizer.json`, the card, the sums.

    An interrupted training goes on where its last state was saved in `out`.

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
    texts = []
    for example in corpus("train", recipe.texts, seed):
        texts.append(batches.tag(example, tokenizer, labels))
        report(min(len(texts), recipe.texts), recipe.texts, "texts")
    out.mkdir(parents=True, exist_ok=True)
    everyday = batches.whole_words(tokenizer, word_list("everyday", "train"))
    run = train(
        *(model, texts, recipe.training, report, out / STATE_FILE),
        everyday=everyday,
        n_known=n_known,
    )
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
    (out / STATE_FILE).unlink(missing_ok=True)
    write_sums(out)
    return Trained(out, run, figures, settings)


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
