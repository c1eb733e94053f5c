"""Rows of ratios: verdicts, tables, JSON there and back, the plot's scale."""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plot
import pytest
import report
from floors import BY_NAME
from ratios.measured import Measured

from ptmo_secure.errors import InputError

MADE = {
    "command": "python x.py",
    "commit": "0123456789abcdef",
    "machine": {"cpu": "Zen", "cores": 2},
}


def row(name: str, value: float, threads: int = 2) -> report.RatioRow:
    return report.measured_row(
        BY_NAME[name], threads, Measured(value, (*(value,) * 4, value + 0.02))
    )


def test_a_ratio_is_below_its_floor_or_ok_or_at_its_goal() -> None:
    verdicts = [report.verdict(row("seal_1024", value)) for value in (0.87, 0.88, 0.95)]
    assert verdicts == ["BELOW", "ok", "goal"]


def test_a_cost_is_above_its_limit_or_ok_or_at_its_goal() -> None:
    verdicts = [report.verdict(row("memory", value)) for value in (1.01, 1.0, 0.9)]
    assert verdicts == ["ABOVE", "ok", "goal"]


def test_a_floor_is_missed_or_not_measured_or_not_judged() -> None:
    skipped = report.skipped_row(BY_NAME["decode_q4_1"], 1, "not here")
    quick = report.measured_row(BY_NAME["kv_int8"], 1, Measured(0.5, (0.5,) * 4))
    rows = [skipped, row("permute", 0.9), row("permute", 1.0, 1), quick]
    wanted = [(BY_NAME[each.metric], each.threads) for each in rows]
    assert report.faults(rows, [*wanted, (BY_NAME["memory"], 2)]) == [
        "permute at 2 threads: 0.900 misses 0.97",
        "not judged, measured in fewer than 5 rounds: kv_int8 at 1 thread",
        "not measured (not here): decode_q4_1 at 1 thread, memory at 2 threads",
    ]
    assert [report.verdict(each) for each in (skipped, quick)] == ["skipped", "not judged"]
    assert report.faults([row("permute", 1.0)], [(BY_NAME["permute"], 2)]) == []


def test_the_markdown_is_one_table_under_the_command_that_made_it() -> None:
    skipped = report.skipped_row(BY_NAME["decode_q4_1"], 1, "not here")
    lines = report.markdown({**MADE, "config": {}}, [row("memory", 0.95), skipped]).splitlines()
    assert lines[0] == "`python x.py` at 0123456789, Zen, 2 cores, load 0.00 before:"
    assert len(lines) == 6
    assert {line.count("|") for line in lines[2:]} == {9}
    assert "| 0.95 | <= 1.00 | <= 0.90 | ok | 0.95 - 0.97 |" in lines[4]
    assert "| - | >= 1.60 | >= 2.50 | skipped | not here |" in lines[5]


def test_rows_come_back_from_their_json(tmp_path: Path) -> None:
    rows = [row("seal_1024", 0.9), report.skipped_row(BY_NAME["decode_q4_1"], 1, "not here")]
    path = tmp_path / "ratios.json"
    config = {"only": ["seal_1024"], "threads": [2]}
    path.write_text(
        json.dumps({**MADE, "config": config, "results": [asdict(row) for row in rows]})
    )
    _, read, wanted = report.read_result(path)
    assert read == rows
    assert [(metric.name, threads) for metric, threads in wanted] == [("seal_1024", 2)]


GOOD = {
    **MADE,
    "config": {"only": ["memory"], "threads": [2], "load_average_before": 0.5},
    "results": [asdict(row("memory", 0.95))],
}
MISSING = [
    *("machine", "command", "commit", "config", "results"),
    *("machine.cpu", "machine.cores", "config.only", "config.threads"),
    *(f"results.0.{key}" for key in ("metric", "threads", "measured", "rounds", "detail")),
]
WRONG = {
    "machine": [],
    "config": [],
    "config.only": ["speed"],
    "config.load_average_before": "high",
    "results": 1,
    "results.0": None,
    "results.0.metric": "speed",
    "results.0.threads": 1,
    "results.0.measured": float("nan"),
    "results.0.rounds": [[1.0]],
    "results.0.detail": ["kv"],
}


def holder(made: Any, place: str) -> tuple[Any, str | int]:
    """What holds the value at a dotted place, and its key there."""
    *parents, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in parents:
        made = made[key]
    return made, last


def read_altered(path: Path, made: object) -> str:
    path.write_text(json.dumps(made))
    with pytest.raises(InputError) as error:
        report.read_result(path)
    return str(error.value)


@pytest.mark.parametrize("place", MISSING)
def test_a_result_without_something_it_needs_is_refused(tmp_path: Path, place: str) -> None:
    made = copy.deepcopy(GOOD)
    parent, key = holder(made, place)
    del parent[key]
    message = read_altered(tmp_path / "other.json", made)
    assert "other.json: no result of check_ratios.py: " in message
    assert message.endswith(f"'{key}' is missing or unknown")


@pytest.mark.parametrize("place", WRONG)
def test_a_result_with_a_wrong_value_is_refused(tmp_path: Path, place: str) -> None:
    made = copy.deepcopy(GOOD)
    parent, key = holder(made, place)
    parent[key] = WRONG[place]
    assert "other.json: no result of check_ratios.py: " in read_altered(
        tmp_path / "other.json", made
    )


@pytest.mark.parametrize("text", ["", "[]", "3"])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"other\.json: no result"):
        report.read_result(path)


def test_the_plot_puts_what_keeps_its_floor_at_one_or_more() -> None:
    assert plot.in_floors(row("seal_1024", 0.44), 0.44) == pytest.approx(0.5)
    assert plot.in_floors(row("memory", 2.0), 2.0) == pytest.approx(0.5)
    assert plot.in_floors(row("memory", 0.5), 0.5) == pytest.approx(2)


def test_the_plot_needs_something_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        plot.draw([report.skipped_row(BY_NAME["permute"], 1, "")], tmp_path / "ratios.png")


def test_the_plot_is_written(tmp_path: Path) -> None:
    plot.draw([row("seal_1024", 0.8), row("memory", 0.8)], tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
