"""`ptmo model`: fetch, list, check and convert models."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.config import choice

KINDS = ("q4_0", "q4_1")

Name = Annotated[
    str, typer.Argument(metavar="[MODEL]", help="A registry name, a hub id or a GGUF file.")
]


def pull(model: Name = options.DEFAULT_MODEL, json: options.Json = False) -> None:
    """Fetch a model into the cache and check its SHA-256; do nothing if it is there.

    \b
    Examples:
      ptmo model pull
      ptmo model pull smollm2-135m --json
    """
    with output.json_only(json) as emit:
        path = pull_with_progress(model)
        emit({"model": model, "path": str(path), "bytes": path.stat().st_size})
        if not json:
            print(path)


def pull_with_progress(model: str) -> Path:
    """Fetch a model with a progress bar on stderr and return its file."""
    from ptmo_secure.engine import registry

    with output.progress(model) as report:
        return registry.pull(model, lambda stage, done, total: report(done, total, stage))


def list_(json: options.Json = False) -> None:
    """List the models that can be named, and where they lie.

    \b
    Examples:
      ptmo model list
      ptmo model list --json
    """
    from ptmo_secure.engine import registry

    with output.json_only(json) as emit:
        models = registry.list_models()
        emit(
            {
                "cache": str(registry.cache_folder()),
                "models": [
                    {
                        "name": model.name,
                        "title": model.title,
                        "licence": model.licence,
                        "bytes": model.bytes,
                        "sha256": model.sha256 or None,
                        "path": str(model.path) if model.path else None,
                    }
                    for model in models
                ],
            }
        )
    if json:
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("name", "model", "MB", "licence", "file"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "MB" else "left")
    for model in models:
        file = str(model.path) if model.path else f"not here: ptmo model pull {model.name}"
        cells = (model.name, model.title, f"{model.bytes / 1e6:.0f}", model.licence, file)
        table.add_row(*(Text(output.one_line(cell)) for cell in cells))
    output.console().print(table)


def verify(model: Name = options.DEFAULT_MODEL, json: options.Json = False) -> None:
    """Check a model's SHA-256 and the form of its file.

    \b
    Examples:
      ptmo model verify
      ptmo model verify ./model.gguf --json
    """
    from ptmo_secure.engine import registry

    with output.json_only(json) as emit:
        with output.progress(model) as report:
            found = registry.verify(model, lambda stage, done, n: report(done, n, stage))
        emit(
            {
                "model": model,
                "path": str(found.path),
                "bytes": found.bytes,
                "sha256": found.sha256,
                "expected": found.expected,
                "architecture": found.architecture,
                "tensors": found.tensors,
            }
        )
        if not json:
            known = "as expected" if found.expected else "nobody published a sum to compare with"
            print(f"{found.path}: {found.architecture}, {found.tensors} tensors")
            print(f"SHA-256 {found.sha256} ({known})")


def quantize(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A GGUF file.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file to write.")],
    kind: Annotated[
        str, typer.Option("--kind", metavar="K", help=f"Type of the weights: {', '.join(KINDS)}.")
    ] = "q4_1",
    json: options.Json = False,
) -> None:
    """Write a 4-bit copy of a model.

    \b
    Examples:
      ptmo model quantize model-f16.gguf model-q4_1.gguf
      ptmo model quantize model-f16.gguf model-q4_0.gguf --kind q4_0
    """
    choice("kind", kind, KINDS)
    with output.json_only(json) as emit:
        from ptmo_secure.engine.quantize import quantize_file

        with output.progress(source.name) as report:
            made = quantize_file(
                source,
                target,
                cast(Literal["q4_0", "q4_1"], kind),
                lambda tensor, done, total: report(done, total, tensor),
            )
        emit(
            {
                "source": str(source),
                "target": str(made.path),
                "kind": kind,
                "source_bytes": made.source_bytes,
                "bytes": made.bytes,
                "weights": made.weights,
                "bits_per_weight": round(made.bits_per_weight, 3),
            }
        )
        if not json:
            print(
                f"{made.path}: {made.bytes / 1e6:.1f} MB, {made.bits_per_weight:.2f} bits/weight; "
                f"the source had {made.source_bytes / 1e6:.1f} MB"
            )


list_.__name__ = "list"
COMMANDS = (pull, list_, verify, quantize)
