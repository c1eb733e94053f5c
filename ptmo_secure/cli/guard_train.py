"""`ptmo guard train`: fine-tunes the guard's token classifier."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError, not_installed

if TYPE_CHECKING:
    from ptmo_secure.privacy.training.recipe import Base, Recipe

_MAX_SEED = 2**32
_NEEDED = ("torch", "onnx", "faker")


def train(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the model goes; made if missing.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="DIR",
            help="Rampart's model_q4.onnx and tokenizer.json [default: pulled].",
        ),
    ] = None,
    further: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A model's folder to go on with, not Rampart."),
    ] = None,
    texts: Annotated[
        int | None,
        typer.Option(
            "--texts", metavar="N", help="Made-up texts that a run learns from [default: 80000]."
        ),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs", metavar="N", help="Trainings whose weights are averaged [default: 2]."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Passes over them [default: 1]."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", help="Of texts and training; each run has the next one."
        ),
    ] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="PyTorch threads [default: 2].")
    ] = None,
    json: options.Json = False,
) -> None:
    """Fine-tune Rampart on made-up texts: the model that the guard ships, made anew.

    \b
    Examples:
      ptmo guard train --out guard-model
      ptmo guard train --out guard-model --base ./rampart --texts 2000 --runs 1 --json
      ptmo guard train --out further --from guard-model --texts 40000 --runs 1 --seed 3

    Needs the packages of [train], which `make setup` installs. An interrupted training goes on with
    the same command; the same seed, machine and threads give the same model. See
    docs/guard-data.md.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise not_installed(f"ptmo guard train ({missing[0]})", "train")
    for name, value in {
        "--texts": texts,
        "--runs": runs,
        "--epochs": epochs,
        "--threads": threads,
    }.items():
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: at least 1 is needed")
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"--seed {seed}: expected 0 to {_MAX_SEED}")
    if base is not None and further is not None:
        raise InputError("--base and --from: a training starts from one of them")
    with output.json_only(json) as emit:
        from ptmo_secure.privacy.training.recipe import make

        start = _base(base, further)
        chosen = _chosen(start, (texts, runs, epochs), seed, threads)
        with output.progress("guard train") as report:
            trained = make(start, out, chosen, report)
        rows: list[dict[str, object]] = [
            {"metric": "steps", "value": sum(run.steps for run in trained.runs)},
            {"metric": "train_s", "value": sum(run.seconds for run in trained.runs)},
            {"metric": "first_loss", "value": trained.runs[0].losses[0]},
            {"metric": "last_loss", "value": trained.runs[-1].losses[-1]},
            *({"metric": name, "value": value} for name, value in trained.figures.items()),
        ]
        from ptmo_secure.results import envelope

        config: dict[str, object] = {"seed": seed, "texts": chosen.texts, "runs": chosen.runs}
        config |= {"epochs": chosen.training.epochs, **trained.settings}
        emit(envelope(output.command(), config, rows))
        if not json:
            print(trained.folder)


def _chosen(
    base: "Base", size: tuple[int | None, int | None, int | None], seed: int, threads: int | None
) -> "Recipe":
    """Return the usual recipe, but for what was given."""
    from ptmo_secure.privacy.training import recipe
    from ptmo_secure.privacy.training.train import TrainConfig, has_bfloat16

    usual, (texts, runs, epochs) = recipe.Recipe(), size
    training = usual.training
    return recipe.Recipe(
        runs=runs or usual.runs,
        texts=texts or usual.texts,
        training=TrainConfig(
            epochs=epochs or training.epochs,
            peak_rate=recipe.RATE_GOING_ON if base.trained else training.peak_rate,
            seed=seed,
            threads=threads or training.threads,
            bfloat16=has_bfloat16(),
        ),
    )


def _base(folder: Path | None, further: Path | None) -> "Base":
    """Return the files to start from: a trained model's, or Rampart's, pulled if need be."""
    from ptmo_secure.privacy.training.recipe import Base

    if further is not None:
        return Base(further / "model.onnx", further / "tokenizer.json", trained=True)
    if folder is not None:
        return Base(folder / "model_q4.onnx", folder / "tokenizer.json")
    from ptmo_secure.cli.model import pull_with_progress

    return Base(pull_with_progress("rampart"), pull_with_progress("rampart-tokenizer"))
