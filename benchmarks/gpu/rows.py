"""One row a ratio and shape: for programs, for terminals, and for benchmarks/README.md."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from floors import GPU_BY_NAME, GpuMetric
from ratios.measured import Measured
from report import NOT_JUDGED, detail, number, read_checked, verdict
from rounds import ROUNDS

from ptmo_secure.results import envelope

HEADINGS = ("metric", "at", "measured", "floor", "goal", "ok", "rounds")
NOT_MEASURED = "not measured"

# What a measurement gives: a figure for each of the metric's shapes, or why there is none.
Figures = Mapping[str, Measured | str]


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A ratio at one shape beside its targets. The fields are the keys of the JSON."""

    metric: str
    title: str
    variant: str
    measured: float | None  # None: not measured
    floor: float
    goal: float
    bound: str  # "at_least" | "at_most"
    ok: bool | None  # None: not measured, or in too few rounds to judge by
    goal_reached: bool | None
    rounds: tuple[float, ...] = ()
    detail: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""  # why it was not measured


def row(metric: GpuMetric, variant: str, found: Measured | str) -> GpuRow:
    """A row of what was measured, judged where it was in enough rounds; or of why it was not."""
    target = metric.target
    value = None if isinstance(found, str) else found.value
    judged = not isinstance(found, str) and len(found.rounds) >= ROUNDS
    return GpuRow(
        metric=metric.name,
        title=metric.title,
        variant=variant,
        measured=value,
        floor=target.floor,
        goal=target.goal,
        bound=target.bound,
        ok=target.holds(value) if judged and value is not None else None,
        goal_reached=target.reaches_goal(value) if judged and value is not None else None,
        rounds=() if isinstance(found, str) else found.rounds,
        detail={} if isinstance(found, str) else found.detail,
        skipped=found if isinstance(found, str) else "",
    )


def rows_of(metric: GpuMetric, figures: Figures) -> list[GpuRow]:
    """A row for each of the metric's shapes."""
    return [row(metric, variant, figures[variant]) for variant in metric.variants]


def result(
    command: str,
    config: Mapping[str, object],
    ceilings: Mapping[str, float],
    rows: Sequence[GpuRow],
) -> dict[str, Any]:
    """The JSON object of a run, with what the device reached in the same run."""
    made = envelope(command, config, [asdict(row) for row in rows])
    return {**made, "ceilings": dict(ceilings)}


def read_result(path: Path) -> tuple[dict[str, Any], list[GpuRow]]:
    """An earlier run's JSON object, and its rows beside the floors of today.

    Raises:
        InputError: it is not there, or no result of bench_gpu.py.
    """

    def take(found: dict[str, Any]) -> list[GpuRow]:
        taken = [_row_from_json(row) for row in found["results"]]
        heading(found)
        return taken

    return read_checked(path, "bench_gpu.py", take)


def _row_from_json(value: Mapping[str, Any]) -> GpuRow:
    metric, variant = GPU_BY_NAME[value["metric"]], str(value["variant"])
    if variant not in metric.variants:
        raise ValueError(f"{metric.name} has no shape {variant!r}")
    if value["measured"] is None:
        return row(metric, variant, str(value["skipped"]))
    rounds = tuple(float(each) for each in value["rounds"])
    parts = {name: float(each) for name, each in value["detail"].items()}
    return row(metric, variant, Measured(float(value["measured"]), rounds, parts))


def faults(rows: Sequence[GpuRow]) -> list[str]:
    """Why the check fails, a line each: a floor that was missed, or that could not be judged.

    A ratio whose peer is not there fails nothing: its row says so.
    """
    if not rows:
        return ["nothing was measured: the run names no ratio"]
    lines = [
        f"{row.metric} at {row.variant}: {row.measured:.3f} misses {row.floor}"
        for row in rows
        if row.ok is False
    ]
    few = [f"{row.metric} at {row.variant}" for row in rows if verdict(row) == NOT_JUDGED]
    if few:
        lines.append(f"{NOT_JUDGED}, measured in fewer than {ROUNDS} rounds: {', '.join(few)}")
    return lines


def cells(rows: Sequence[GpuRow]) -> Iterator[tuple[str, ...]]:
    """The table: a row of text per ratio and shape."""
    for each in rows:
        sign = ">=" if each.bound == "at_least" else "<="
        low_high = f"{number(min(each.rounds))} - {number(max(each.rounds))}" if each.rounds else ""
        yield (
            each.title,
            each.variant,
            "-" if each.measured is None else number(each.measured),
            f"{sign} {number(each.floor)}",
            f"{sign} {number(each.goal)}",
            verdict(each),
            f"{NOT_MEASURED}: {each.skipped}" if each.skipped else low_high,
        )


def heading(run: Mapping[str, Any]) -> str:
    """The command, commit, device and ceilings of a run, in a line."""
    ceilings = run["ceilings"]
    reached = ", ".join(f"{name.replace('_', ' ')} {number(ceilings[name])}" for name in ceilings)
    return (
        f"`{run['command']}` at {str(run['commit'])[:10]}, {run['config']['device']}"
        + (f"; in the same run {reached}" if reached else "")
        + ":"
    )


def markdown(run: Mapping[str, Any], rows: Sequence[GpuRow]) -> str:
    """The table for the README, under the command, commit and device that made it."""
    lines = [(*HEADINGS, "of"), tuple("---" for _ in (*HEADINGS, ""))]
    lines += [(*line, detail(each)) for line, each in zip(cells(rows), rows, strict=True)]
    return heading(run) + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
