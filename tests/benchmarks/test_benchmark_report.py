"""Rows of ratios: verdicts, tables, JSON there and back, the plot's scale."""

import json
from dataclasses import asdict
from pathlib import Path

import plot
import pytest
import report
from floors import BY_NAME
from ratios.measured import Measured

from ptmo_secure.errors import InputError


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
    made = {"command": "python x.py", "commit": "0123456789abcdef", "config": {}}
    made["machine"] = {"cpu": "Zen", "cores": 2}
    lines = report.markdown(made, [row("memory", 0.95), skipped]).splitlines()
    assert lines[0] == "`python x.py` at 0123456789, Zen, 2 cores, load 0.00 before:"
    assert len(lines) == 6
    assert {line.count("|") for line in lines[2:]} == {9}
    assert "| 0.95 | <= 1.00 | <= 0.90 | ok | 0.95 - 0.97 |" in lines[4]
    assert "| - | >= 1.60 | >= 2.50 | skipped | not here |" in lines[5]


def test_rows_come_back_from_their_json(tmp_path: Path) -> None:
    rows = [row("seal_1024", 0.9), report.skipped_row(BY_NAME["decode_q4_1"], 1, "not here")]
    path = tmp_path / "ratios.json"
    config = {"only": ["seal_1024"], "threads": [2]}
    path.write_text(json.dumps({"config": config, "results": [asdict(row) for row in rows]}))
    _, read, wanted = report.read_result(path)
    assert read == rows
    assert [(metric.name, threads) for metric, threads in wanted] == [("seal_1024", 2)]


OTHERS = [
    "",
    "[]",
    '{"config": {"only": [], "threads": []}, "results": [{"metric": "speed", "threads": 1}]}',
    '{"config": {"only": ["speed"], "threads": [1]}, "results": []}',
    '{"results": []}',
]


@pytest.mark.parametrize("text", OTHERS)
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
