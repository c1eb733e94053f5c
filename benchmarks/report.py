"""One row a ratio: for programs, for terminals, and for benchmarks/README.md."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from floors import BY_NAME, Metric, Target, with_targets
from ratios.measured import Measured
from rounds import ROUNDS
from script import thread_count

from ptmo_secure.errors import InputError
from ptmo_secure.results import envelope

HEADINGS = ("metric", "threads", "measured", "floor", "goal", "ok", "rounds")
NOT_JUDGED = "not judged"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RatioRow:
    """A ratio beside its targets. The fields are the keys of the JSON."""

    metric: str
    title: str
    threads: int
    measured: float | None  # None: skipped
    floor: float
    goal: float
    bound: str  # "at_least" | "at_most"
    unit: str
    ok: bool | None  # None: skipped, or too few rounds to judge by
    goal_reached: bool | None
    rounds: tuple[float, ...] = ()
    detail: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""


def measured_row(metric: Metric, threads: int, found: Measured) -> RatioRow:
    """A row of a ratio that was measured; judged where it was in enough rounds."""
    target = metric.targets[threads]
    judged = len(found.rounds) >= ROUNDS
    return RatioRow(
        **_common(metric, threads, target),
        measured=found.value,
        ok=target.holds(found.value) if judged else None,
        goal_reached=target.reaches_goal(found.value) if judged else None,
        rounds=found.rounds,
        detail=found.detail,
    )


def skipped_row(metric: Metric, threads: int, reason: str) -> RatioRow:
    """A row of a ratio that could not be measured."""
    common = _common(metric, threads, metric.targets[threads])
    return RatioRow(**common, measured=None, ok=None, goal_reached=None, skipped=reason)


def _common(metric: Metric, threads: int, target: Target) -> dict[str, Any]:
    return {
        "metric": metric.name,
        "title": metric.title,
        "threads": threads,
        "floor": target.floor,
        "goal": target.goal,
        "bound": target.bound,
        "unit": target.unit,
    }


def result(command: str, config: Mapping[str, object], rows: Sequence[RatioRow]) -> dict[str, Any]:
    """The JSON object of a run."""
    return envelope(command, config, [asdict(row) for row in rows])


Wanted = Sequence[tuple[Metric, int]]  # ratios to judge, each at a thread count


def read_result(path: Path) -> tuple[dict[str, Any], list[RatioRow], Wanted]:
    """An earlier run's JSON object, its rows beside the floors of today, what it was to measure.

    Raises:
        InputError: it is not there, or no result of check_ratios.py.
    """

    def take(found: dict[str, Any]) -> tuple[list[RatioRow], Wanted]:
        wanted = with_targets(found["config"]["only"], found["config"]["threads"])
        heading(found)
        return [_row_from_json(row) for row in found["results"]], wanted

    found, (rows, wanted) = read_checked(path, "check_ratios.py", take)
    return found, rows, wanted


def read_checked(
    path: Path, tool: str, take: Callable[[dict[str, Any]], T]
) -> tuple[dict[str, Any], T]:
    """The JSON object that `tool` wrote, and what `take` makes of it.

    Raises:
        InputError: it is not there, or `take` finds it wrong.
    """
    try:
        found = json.loads(path.read_text(), parse_constant=_refuse_constant)
        return found, take(found)
    except KeyError as error:
        reason = f"{error} is missing or unknown"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise InputError(f"{path}: no result of {tool}: {reason}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _row_from_json(value: Mapping[str, Any]) -> RatioRow:
    metric, threads = BY_NAME[value["metric"]], int(value["threads"])
    if value["measured"] is None:
        return skipped_row(metric, threads, str(value["skipped"]))
    rounds = tuple(float(each) for each in value["rounds"])
    parts = {name: float(each) for name, each in value["detail"].items()}
    return measured_row(metric, threads, Measured(float(value["measured"]), rounds, parts))


def faults(rows: Sequence[RatioRow], wanted: Wanted) -> list[str]:
    """Why not every wanted floor was kept, a line each: missed, not judged or not measured."""
    if not wanted:
        return ["nothing was measured: the run names no ratio at a thread count with a floor"]
    lines = [
        f"{_place(row.metric, row.threads)}: {row.measured:.3f} misses {row.floor}"
        for row in rows
        if row.ok is False
    ]
    few = [_place(row.metric, row.threads) for row in rows if verdict(row) == NOT_JUDGED]
    if few:
        lines.append(f"{NOT_JUDGED}, measured in fewer than {ROUNDS} rounds: {', '.join(few)}")
    measured = {(row.metric, row.threads) for row in rows if row.measured is not None}
    missing = [_place(m.name, n) for m, n in wanted if (m.name, n) not in measured]
    if missing:
        reasons = "".join(f" ({reason})" for reason in sorted({row.skipped for row in rows} - {""}))
        lines.append(f"not measured{reasons}: {', '.join(missing)}")
    return lines


def _place(metric: str, threads: int) -> str:
    return f"{metric} at {thread_count(threads)}"


def cells(rows: Sequence[RatioRow]) -> Iterator[tuple[str, ...]]:
    """The table: a row of text per ratio."""
    for row in rows:
        sign = ">=" if row.bound == "at_least" else "<="
        low_high = f"{number(min(row.rounds))} - {number(max(row.rounds))}" if row.rounds else ""
        yield (
            row.title,
            str(row.threads),
            "-" if row.measured is None else f"{number(row.measured)} {row.unit}".strip(),
            f"{sign} {number(row.floor)}",
            f"{sign} {number(row.goal)}",
            verdict(row),
            row.skipped or low_high,
        )


def verdict(row: RatioRow) -> str:
    """How a row fares, in a word."""
    if row.measured is None:
        return "skipped"
    if row.ok is None:
        return NOT_JUDGED
    if not row.ok:
        return "BELOW" if row.bound == "at_least" else "ABOVE"
    return "goal" if row.goal_reached else "ok"


def number(value: float) -> str:
    """Two decimals for ratios, none for what is large."""
    return f"{value:.0f}" if abs(value) >= 20 else f"{value:.2f}"


def heading(run: Mapping[str, Any]) -> str:
    """The command, commit and machine of a run, in a line."""
    machine = run["machine"]
    load = run["config"].get("load_average_before", 0.0)
    return (
        f"`{run['command']}` at {str(run['commit'])[:10]}, {machine['cpu']}, "
        f"{machine['cores']} cores, load {load:.2f} before:"
    )


def markdown(run: Mapping[str, Any], rows: Sequence[RatioRow]) -> str:
    """The table for the README, under the command, commit and machine that made it."""
    lines = [(*HEADINGS, "of"), tuple("---" for _ in (*HEADINGS, ""))]
    lines += [(*line, detail(row)) for line, row in zip(cells(rows), rows, strict=True)]
    return heading(run) + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def detail(row: RatioRow) -> str:
    """What a ratio was made of, in words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {number(value)}" for name, value in row.detail.items()
    )
