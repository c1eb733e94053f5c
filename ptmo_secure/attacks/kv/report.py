"""Show an attack matrix to people, and write it for programs."""

import os
import unicodedata
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptmo_secure.attacks.kv.attackers import Attacker
from ptmo_secure.attacks.kv.matrix import ResultRow
from ptmo_secure.errors import InputError

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def printable(text: str) -> str:
    """`text` with every control and invisible character as a middle dot, on one line.

    Guesses at ciphertext are arbitrary tokens; none may move a cursor or turn the line around.
    """
    return "".join(
        " " if char in "\n\t" else "·" if unicodedata.category(char)[0] == "C" else char
        for char in text
    )


def percent(rate: float) -> str:
    """A rate as a percentage; small ones keep two significant digits."""
    return f"{100 * rate:.1f} %" if rate >= 0.01 or rate == 0 else f"{100 * rate:.2g} %"


def _name(row: ResultRow) -> str:
    return row.shield if row.restore is None else f"{row.shield} ({row.restore})"


def _style(row: ResultRow) -> str:
    """Red where the text is read, green where the interval stays below 1 %."""
    if row.top1 >= 0.5:
        return "red"
    return "green" if row.ci95[1] < 0.01 else "yellow"


def table(rows: Sequence[ResultRow]) -> Table:
    """One line per attack and configuration; the best attack on each is bold."""
    view = Table(title="Tokens recovered from the KV cache")
    for heading in ("shield", "kv", "attack", "attacker"):
        view.add_column(heading)
    for heading in ("top-1 ids", "95 % interval", "top-1 positions", "control", "chance", "s"):
        view.add_column(heading, justify="right")
    previous = None
    for row in rows:
        configuration = (row.shield, row.restore, row.kv_dtype)
        if previous not in (None, configuration):
            view.add_section()
        first = previous != configuration
        previous = configuration
        view.add_row(
            _name(row) if first else "",
            row.kv_dtype if first else "",
            row.attack,
            row.attacker,
            Text(percent(row.top1), style=_style(row)),
            f"{percent(row.ci95[0])} - {percent(row.ci95[1])}",
            percent(row.top1_positions),
            percent(row.control_top1),
            percent(row.chance),
            f"{row.seconds:.1f}",
            style="bold" if row.best else "",
        )
    return view


def excerpts(rows: Sequence[ResultRow]) -> Table:
    """What the best attack on each configuration reads, under the true text."""
    view = Table(title="First prompt, as the best attack reads it", show_lines=True)
    view.add_column("shield")
    view.add_column("text", overflow="fold")
    best = [row for row in rows if row.best]
    if best:
        view.add_row("true text", Text(printable(best[0].true_text)))
    for row in best:
        view.add_row(f"{_name(row)}, {row.kv_dtype}", Text(printable(row.reconstructed)))
    return view


def summary(rows: Sequence[ResultRow]) -> str:
    """One paragraph: what was scored, and how to read the columns."""
    if not rows:
        return "Nothing was attacked."
    row = rows[0]
    used = sorted({line.attacker for line in rows})
    attackers = "; ".join(f"{name}: {Attacker(name).sees}" for name in used)
    return (
        f"{row.tokens} tokens of user text from {row.prompts} prompts, {row.distinct_ids} distinct "
        f"ids out of {row.vocab_size}; template tokens are not scored. Top-1 ids and its "
        "Clopper-Pearson interval count each distinct id once, at its first occurrence. Control: "
        f"the same attack with the ids of its dictionary shuffled. {attackers}."
    )


def render(rows: Sequence[ResultRow]) -> RenderableType:
    """Table, excerpts and summary for a Rich console."""
    return Group(table(rows), excerpts(rows), Text(summary(rows)))


def show(rows: Sequence[ResultRow], console: Console | None = None) -> None:
    """Print the whole report."""
    (console or Console()).print(render(rows))


def plot(rows: Sequence[ResultRow], path: str | os.PathLike[str]) -> None:
    """Draw recovery per configuration and attack, with 95 % intervals, into `path`.

    Raises:
        InputError: matplotlib is not installed, the suffix is unknown, or the file cannot be
            written.
    """
    target = Path(path)
    if target.suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"{target} does not end in {', '.join(PLOT_SUFFIXES)}")
    try:
        figures: Any = import_module("matplotlib.figure")
    except ModuleNotFoundError as missing:
        raise InputError(f"{target} needs matplotlib; pip install matplotlib") from missing
    labels = list(dict.fromkeys(f"{_name(row)}\n{row.kv_dtype}" for row in rows))
    attacks = list(dict.fromkeys(row.attack for row in rows))
    width = 0.8 / max(len(attacks), 1)
    figure = figures.Figure(figsize=(2 + 1.6 * len(labels), 4.5), layout="constrained")
    axes = figure.subplots()
    for offset, attack in enumerate(attacks):
        mine = [row for row in rows if row.attack == attack]
        places = [labels.index(f"{_name(r)}\n{r.kv_dtype}") + offset * width for r in mine]
        errors = [
            [100 * (row.top1 - row.ci95[0]) for row in mine],
            [100 * (row.ci95[1] - row.top1) for row in mine],
        ]
        heights = [100 * row.top1 for row in mine]
        axes.bar(places, heights, width, yerr=errors, capsize=2, label=attack)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(labels))], labels)
    axes.set_ylabel("distinct tokens recovered, %")
    axes.set_ylim(0, 105)
    axes.axhline(1, color="grey", linewidth=0.6, linestyle="--")
    figure.legend(loc="outside upper center", fontsize="small", ncols=3)
    try:
        figure.savefig(target)
    except OSError as refused:
        raise InputError(f"cannot write {target}: {refused.strerror}") from refused
