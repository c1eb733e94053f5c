"""Plots of a report: what quality costs, a panel for each budget, and multipliers over time."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ptmo_secure.offload.actions import RESOURCES
from ptmo_secure.offload.compare import Summary

_FAMILIES = (
    # heading, colour, marker, and the policies
    ("learners", "tab:red", "o", ("rc-ppo", "rc-a2c", "rc-dqn", "rl", "advice")),
    ("routers", "tab:blue", "s", ("tfidf", "knn", "matrix", "groups", "shaped", "cascade")),
    ("bandits, TREACLE", "tab:purple", "D", ("cs-ucb", "linucb", "thompson", "treacle")),
    ("TMO's learners", "tab:brown", "v", ("tmo-*",)),
    ("oracles", "black", "*", ("query-oracle", "constrained-oracle")),
)
_REST = ("rules", "tab:green", "^")
_NAMED = (
    *("rc-ppo", "rc-a2c", "rc-dqn", "rl", "advice", "greedy", "tfidf", "groups", "cs-ucb"),
    *("treacle", "local-only", "cloud-only", "rule", "random"),
    *("query-oracle", "constrained-oracle"),
)
_WIDE, _HIGH = 6.0, 4.2  # inches of a panel
_LABEL_ROOM = 0.042  # of a panel's height, for the line of a label


def pareto(summaries: Sequence[Summary], cost: str, label: str, path: Path) -> bool:
    """Plot quality against one cost: a panel for each budget, hollow marks for those over it.

    The line joins what no policy within the budget surpasses in both; oracles are no part of it.

    Args:
        summaries: of one environment.
        cost: a field of `Summary`.
        label: of the axis.
        path: of the PNG.

    Returns:
        Whether there is a plot: a cost that all policies have alike says nothing.
    """
    if np.ptp([getattr(one, cost) for one in summaries]) == 0:
        return False
    budgets = list(dict.fromkeys(one.budget for one in summaries))
    columns = min(2, len(budgets))
    lines = ceil(len(budgets) / columns)
    figure = _figure(columns * _WIDE, lines * _HIGH)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(budgets) :]:
        axes.set_axis_off()
    for axes, budget in zip(grid.flat, budgets, strict=False):
        _panel(axes, [one for one in summaries if one.budget == budget], cost)
        axes.set_title(f"budget {budget}", fontsize=9)
        axes.set_xlabel(label)
        axes.set_ylabel("quality of a turn")
    for axes, budget in zip(grid.flat, budgets, strict=False):  # the axes' ranges are known now
        _name(axes, [one for one in summaries if one.budget == budget], cost)
    handles = {name: handle for axes in grid.flat for handle, name in _legend(axes)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)
    return True


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other one surpasses in both, by rising cost."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def spread(wanted: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Return places near those wanted, in the same order, with room between each two.

    Args:
        wanted: rising.
        room: least distance; less where there is not enough of it.
        low, high: ends of the range.
    """
    room = min(room, (high - low) / max(1, len(wanted) - 1))
    places: list[float] = []
    for number, place in enumerate(wanted):
        least = places[-1] + room if places else low
        most = high - room * (len(wanted) - 1 - number)
        places.append(min(max(place, least), most))
    return places


def trace(entries: Sequence[dict[str, list[float]]], path: Path) -> None:
    """Plot multipliers over their updates.

    Args:
        entries: as `train` writes them.
        path: of the PNG.
    """
    figure = _figure(7.0, 4.5)
    axes = figure.add_subplot()
    values = np.array([entry["multipliers"] for entry in entries]).reshape(-1, len(RESOURCES))
    for place, name in enumerate(RESOURCES):
        if values[:, place].any():
            axes.plot(values[:, place], label=name)
    axes.set_xlabel("updates of the multipliers")
    axes.set_ylabel("reward per limit")
    if values.any():
        axes.legend()
    figure.savefig(path, dpi=130)


def _panel(axes: Any, group: Sequence[Summary], cost: str) -> None:
    """Marks of one budget, and the line of the best."""
    for one in group:
        heading, colour, marker = _family(one.policy)
        over = one.violations > 0
        axes.scatter(
            *([getattr(one, cost)], [one.quality]),
            s=60 if marker == "*" else 26,
            marker=marker,
            facecolors="none" if over else colour,
            edgecolors=colour,
            label=f"{heading}, over budget" if over else heading,
            zorder=3,
        )
    within = [one for one in group if one.violations == 0 and "oracle" not in one.policy]
    best = front([(float(getattr(one, cost)), one.quality) for one in within])
    axes.plot([x for x, _ in best], [y for _, y in best], color="0.6", linewidth=1, zorder=1)
    axes.margins(0.06)
    axes.tick_params(labelsize=8, labelbottom=True)


def _name(axes: Any, group: Sequence[Summary], cost: str) -> None:
    """Names at the right edge, one below the other, each joined to its mark by a thin line."""
    shown = sorted((one for one in group if one.policy in _NAMED), key=lambda one: one.quality)
    low, high = axes.get_ylim()
    heights = [(one.quality - low) / (high - low) for one in shown]
    for one, height in zip(shown, spread(heights, _LABEL_ROOM, 0.0, 1.0), strict=True):
        axes.annotate(
            one.policy,
            (getattr(one, cost), one.quality),
            xytext=(1.02, height),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.5},
        )


def _legend(axes: Any) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


def _family(policy: str) -> tuple[str, str, str]:
    """Heading, colour and marker of a policy."""
    for heading, colour, marker, names in _FAMILIES:
        if policy in names or f"{policy.partition('-')[0]}-*" in names:
            return heading, colour, marker
    return _REST


def _figure(wide: float, high: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
