"""`ptmo guard`: how good the PII guard is, and its training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.cli.guard_train import train
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from ptmo_secure.privacy.evaluate import Evaluation, Measure

DATA_HELP = "Presidio's .json, or harmless .jsonl/.conll; repeatable."


def eval(
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help=DATA_HELP)
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite", metavar="NAME", help="A built-in suite; repeatable [default: all]."
        ),
    ] = None,
    peer: Annotated[
        str,
        typer.Option("--peer", metavar="NAME", help="Another guard on the same data: presidio."),
    ] = "",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Texts of each suite at most.")
    ] = None,
    show_misses: Annotated[
        int, typer.Option("--show-misses", metavar="N", help="List misses: kinds and lengths.")
    ] = 0,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show the text of the misses, too.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure the guard on data files, or on the built-in suites.

    \b
    Examples:
      ptmo guard eval
      ptmo guard eval --suite obfuscation --suite korean
      ptmo guard eval --data labelled.json --data questions.jsonl --json
      ptmo guard eval --data labelled.json --peer presidio --show-misses 20

    Suites: synthetic, harmless, frames, obfuscation, tasks, levels, korean, speed. A labelled file
    is a list of {"full_text", "spans": [{"entity_type", "start_position", "end_position"}]}. A span
    leaks unless 90 % of its letters and digits are masked. See docs/guard-data.md.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least one text is needed")
    if show_misses < 0:
        raise InputError(f"--show-misses {show_misses} is negative")
    from ptmo_secure.privacy.evaluate import SUITES

    unknown = sorted(set(suite or ()) - set(SUITES))
    if unknown:
        raise InputError(f"unknown suite {unknown[0]!r}: expected some of {', '.join(SUITES)}")
    chosen = suite or ([] if data else list(SUITES))
    with output.json_only(json) as emit:
        evaluation = _run(data or [], chosen, peer, limit)
        misses = [m.as_json(with_text=show_text) for m in evaluation.misses[:show_misses]]
        from ptmo_secure.results import envelope

        config: dict[str, object] = {
            "guard": peer or "ptmo",
            "data": [str(path) for path in data or []],
            "suites": chosen,
            "limit": limit,
        }
        rows = [measure.as_json() for measure in evaluation.measures]
        result = envelope(output.command(), config, rows)
        emit({**result, "misses": misses} if show_misses else result)
    if not json:
        output.console().print(_table(evaluation.measures))
        for miss in misses:
            output.write(" ".join(f"{name}={value!r}" for name, value in miss.items()) + "\n")


def _run(data: list[Path], chosen: list[str], peer: str, limit: int | None) -> "Evaluation":
    """Read the files first, then start the guard and run everything."""
    from ptmo_secure.privacy import datafiles
    from ptmo_secure.privacy.evaluate import Evaluation
    from ptmo_secure.privacy.guards import open_guard

    files = [(path, *datafiles.load(path)) for path in data]
    with output.progress("evaluating") as report, open_guard(peer or "ptmo") as guard:
        evaluation = Evaluation(guard, report, limit)
        for path, texts, labelled in files:
            if labelled:
                evaluation.leaks(path.stem, texts)
            else:
                evaluation.flags(path.stem, texts)
        for name in chosen:
            evaluation.run(name)
    return evaluation


def _table(measures: "list[Measure]") -> "Table":
    from rich.table import Table

    table = Table(title="The guard, measured")
    for heading in ("suite", "metric"):
        table.add_column(heading)
    for heading in ("value", "95 % interval", "n", "floor", "goal"):
        table.add_column(heading, justify="right")
    for measure in measures:
        low, high = measure.ci95 or (None, None)
        interval = "" if low is None else f"{low:.3f} - {high:.3f}"
        target = measure.target
        colour = {True: "green", False: "red", None: "default"}[measure.ok]
        table.add_row(
            output.one_line(measure.suite).replace("[", r"\["),
            output.one_line(measure.metric).replace("[", r"\["),
            f"[{colour}]{measure.value:.3f}[/]",
            interval,
            str(measure.n),
            "" if target is None else f"{target.floor:g}",
            "" if target is None else f"{target.goal:g}",
        )
    return table


COMMANDS = (eval, train)
