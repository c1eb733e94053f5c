"""check_ratios.py: what it runs, what it prints, when it fails."""

import json
from pathlib import Path

import check_ratios
import pytest
from floors import BY_NAME
from ratios import llamacpp
from ratios.measured import Measured, Settings, median_of
from ratios.memory import growth_ratio

from ptmo_secure.errors import InputError

Calls = list[tuple[str, int, int]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """(metric, threads, rounds) of each measurement; `permute` is under its floor."""
    made: Calls = []

    def measure_as(name: str):
        def measure(settings: Settings, threads: int) -> Measured:
            made.append((name, threads, settings.rounds))
            floor = BY_NAME[name].targets[threads].floor
            return median_of([floor * (0.9 if name == "permute" else 1)])

        return measure

    measures = {name: measure_as(name) for name in check_ratios.MEASURES}
    monkeypatch.setattr(check_ratios, "MEASURES", measures)
    monkeypatch.setattr(check_ratios, "peer_python", lambda _: None)
    return made


def test_every_metric_has_something_that_measures_it() -> None:
    assert {*check_ratios.MEASURES, *llamacpp.METRICS} == set(BY_NAME)


def test_ratios_on_their_floor_pass(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_ratios.main(["--only", "seal_1024,memory", "--rounds", "7"]) == 0
    assert calls == [("seal_1024", 1, 7), ("seal_1024", 2, 7), ("memory", 2, 7)]
    assert "seal" in capsys.readouterr().out


def test_a_ratio_under_its_floor_fails_and_is_named(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_ratios.main(["--only", "permute,kv_int8", "--threads", "1"]) == 1
    streams = capsys.readouterr()
    assert "permute at 1 thread" in streams.err
    assert "kv_int8 at" not in streams.err


def test_without_llamacpp_its_rows_are_skipped_and_the_rest_counts(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_ratios.main(["--only", "decode_q4_1,kv_int8", "--threads", "2", "--json"]) == 0
    streams = capsys.readouterr()
    assert "make bench-peers" in streams.err
    result = json.loads(streams.out)
    assert list(result) == ["command", "commit", "machine", "config", "results"]
    assert result["config"]["rounds"] == 5
    rows = {row["metric"]: row for row in result["results"]}
    assert rows["decode_q4_1"]["measured"] is None
    assert "bench-peers" in rows["decode_q4_1"]["skipped"]
    assert (rows["kv_int8"]["measured"], rows["kv_int8"]["ok"]) == (1.0, True)


def test_one_comparison_serves_all_rows_against_llamacpp(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(
        settings: Settings, peer: Path, names: set[str], threads: list[int], say: object
    ) -> dict[tuple[str, int], Measured]:
        asked.append((sorted(names), threads))
        return {(name, n): median_of([9.0]) for name in names for n in threads}

    monkeypatch.setattr(llamacpp, "measure", measure)
    rows = check_ratios.check(
        Settings(), ["decode_q4_0", "prefill_q4_0", "memory"], [1, 2], Path("python")
    )
    assert asked == [(["decode_q4_0", "prefill_q4_0"], [1, 2])]
    assert [(row.metric, row.threads, row.ok) for row in rows] == [
        ("decode_q4_0", 1, True),
        ("decode_q4_0", 2, True),
        ("prefill_q4_0", 2, True),
        ("memory", 2, True),
    ]


def test_an_earlier_result_is_judged_by_the_floors_of_today(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_ratios.main(["--only", "permute", "--threads", "1", "--json"]) == 1
    path = tmp_path / "ratios.json"
    path.write_text(capsys.readouterr().out)
    calls.clear()
    assert check_ratios.main(["--from", str(path), "--markdown"]) == 1
    assert calls == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "`python benchmarks/check_ratios.py --only permute --threads 1 --json`"
    )
    assert lines[2].startswith("| metric | threads | measured |")


def test_a_thread_count_that_no_ratio_is_defined_for_is_refused(calls: Calls) -> None:
    with pytest.raises(InputError, match="memory has a target at these thread counts"):
        check_ratios.main(["--only", "memory", "--threads", "1"])


def test_memory_is_growth_over_weights_and_cache_and_64_mib() -> None:
    mib = 1 << 20
    probe = {"before_bytes": 50 * mib, "peak_bytes": 200 * mib}
    probe |= {"weights_bytes": 100 * mib, "kv_bytes": 36 * mib}
    assert growth_ratio(probe) == 0.75
