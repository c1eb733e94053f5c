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


@dataclass(frozen=True, slots=True)
class Failed:
    """What the code under test said, or the device, when it broke off."""

    text: str


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
    failed: str = ""  # what broke off said, where that is why


def row(metric: GpuMetric, variant: str, found: Measured | Failed | str) -> GpuRow:
    """A row of what was measured, judged where it was in enough rounds; or of why it was not."""
    target = metric.target
    figure = found if isinstance(found, Measured) else None
    value = figure.value if figure else None
    judged = figure is not None and len(figure.rounds) >= ROUNDS
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
        rounds=figure.rounds if figure else (),
        detail=figure.detail if figure else {},
        skipped=found if isinstance(found, str) else "",
        failed=found.text if isinstance(found, Failed) else "",
    )


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
        failed = str(value["failed"])
        return row(metric, variant, Failed(failed) if failed else str(value["skipped"]))
    rounds = tuple(float(each) for each in value["rounds"])
    parts = {name: float(each) for name, each in value["detail"].items()}
    return row(metric, variant, Measured(float(value["measured"]), rounds, parts))


def faults(rows: Sequence[GpuRow], whole: bool) -> list[str]:
    """Why the check fails, a line each: what failed, missed its floor or could not be judged.

    A ratio whose peer is not there fails a `whole` run, which was to measure all.
    """
    if not rows:
        return ["nothing was measured: the run names no ratio"]
    lines = [f"{row.metric} at {row.variant} failed: {row.failed}" for row in rows if row.failed]
    lines += [
        f"{row.metric} at {row.variant}: {row.measured:.3f} misses {row.floor}"
        for row in rows
        if row.ok is False
    ]
    few = [f"{row.metric} at {row.variant}" for row in rows if verdict(row) == NOT_JUDGED]
    if few:
        lines.append(f"{NOT_JUDGED}, measured in fewer than {ROUNDS} rounds: {', '.join(few)}")
    missing = list(dict.fromkeys(row.metric for row in rows if row.measured is None))
    if whole and missing:
        lines.append(f"INCOMPLETE: {len(missing)} ratios not measured ({', '.join(missing)})")
    return lines


def is_whole(rows: Sequence[GpuRow]) -> bool:
    """Whether a run was to measure all ratios."""
    return {row.metric for row in rows} == set(GPU_BY_NAME)


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
            "FAILED" if each.failed else verdict(each),
            each.failed or (f"{NOT_MEASURED}: {each.skipped}" if each.skipped else low_high),
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
