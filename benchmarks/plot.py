"""Draws what check_ratios.py measured: every ratio in units of its floor.

python benchmarks/check_ratios.py --json > ratios.json
python benchmarks/plot.py ratios.json --output benchmarks/ratios.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import NOT_JUDGED, RatioRow, number, read_result, verdict
from script import ArgumentParser, run

from ptmo_secure.errors import InputError

COLOURS = {
    "goal": "#2a7f4f",
    "ok": "#30609a",
    "BELOW": "#b03030",
    "ABOVE": "#b03030",
    NOT_JUDGED: "#808080",
}


def in_floors(row: RatioRow, value: float) -> float:
    """`value` over the row's floor; its inverse where less is better: 1 or more is kept."""
    return value / row.floor if row.bound == "at_least" else row.floor / value


def draw(rows: Sequence[RatioRow], output: Path) -> None:
    """Write the plot.

    Raises:
        InputError: no row was measured, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the plot needs matplotlib; run pip install matplotlib") from None
    drawn = [row for row in rows if row.measured is not None]
    if not drawn:
        raise InputError("no ratio was measured: nothing to draw")
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(drawn):
        _draw_row(axes, y, row)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(drawn)), [f"{row.title}, {row.threads} thr." for row in drawn], fontsize=7
    )
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel("times the floor (line); mark: goal; bar: lowest to highest round")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.grid(axis="x", which="both", alpha=0.25)
    figure.savefig(output, dpi=130)


def _draw_row(axes: Any, y: int, row: RatioRow) -> None:
    measured = row.measured or 0.0
    colour = COLOURS[verdict(row)]
    ends = [in_floors(row, value) for value in (*row.rounds, measured)]
    axes.plot([min(ends), max(ends)], [y, y], color=colour, linewidth=4, alpha=0.4)
    axes.plot([in_floors(row, measured)], [y], "o", color=colour, markersize=6)
    axes.plot([in_floors(row, row.goal)], [y], "|", color="black", markersize=11)
    axes.annotate(
        f"{number(measured)} {row.unit}".strip(),
        (max(ends), y),
        xytext=(6, -3),
        textcoords="offset points",
        fontsize=7,
        color=colour,
    )


def main(arguments: list[str]) -> int:
    """Read a result, draw it."""
    parser = ArgumentParser(description="Draw a result of check_ratios.py.")
    parser.add_argument("result", type=Path, help="what check_ratios.py --json wrote")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("ratios.png"))
    given = parser.parse_args(arguments)
    draw(read_result(given.result)[1], given.output)
    print(given.output)
    return 0


if __name__ == "__main__":
    run(main)
