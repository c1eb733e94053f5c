"""check_ratios.py: what it runs, what it prints, when it fails."""

import json
from pathlib import Path

import check_ratios
import pytest
from floors import BY_NAME, METRICS, with_targets
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
            return median_of([floor * (0.9 if name == "permute" else 1)] * settings.rounds)

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


def test_without_llamacpp_its_floors_are_not_measured_and_the_check_fails(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_ratios.main(["--only", "decode_q4_1,kv_int8", "--threads", "2", "--json"]) == 1
    streams = capsys.readouterr()
    assert streams.err.splitlines()[-1] == (
        "not measured (llama.cpp is not installed: make bench-peers): decode_q4_1 at 2 threads"
    )
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
        return {(name, n): median_of([9.0] * settings.rounds) for name in names for n in threads}

    monkeypatch.setattr(llamacpp, "measure", measure)
    wanted = with_targets(["decode_q4_0", "prefill_q4_0", "memory"], [1, 2])
    rows = check_ratios.check(Settings(), wanted, Path("python"))
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
    with pytest.raises(InputError, match="none of memory has a target at threads 1"):
        check_ratios.main(["--only", "memory", "--threads", "1"])


def test_the_floors_that_were_picked_are_the_ones_that_must_be_measured(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picked = ["--only", "kv_int8,seal_1024", "--threads", "1"]
    assert check_ratios.main([*picked, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    path = tmp_path / "ratios.json"
    path.write_text(json.dumps(made))
    assert check_ratios.main(["--from", str(path)]) == 0
    assert "1,024" in capsys.readouterr().out
    assert check_ratios.main(["--from", str(path), "--only", "kv_int8", "--threads", "1"]) == 0
    assert "1,024" not in capsys.readouterr().out
    assert check_ratios.main(["--from", str(path), "--only", "kv_int8"]) == 1
    assert capsys.readouterr().err == "not measured: kv_int8 at 2 threads\n"
    del made["results"][0]
    path.write_text(json.dumps(made))
    assert check_ratios.main(["--from", str(path)]) == 1
    assert capsys.readouterr().err == "not measured: kv_int8 at 1 thread\n"


def empty_result(folder: Path, names: list[str], threads: list[int]) -> Path:
    made = {"command": "python x.py", "commit": None, "machine": {"cpu": "Zen", "cores": 2}}
    config = {"only": names, "threads": threads}
    path = folder / "ratios.json"
    path.write_text(json.dumps({**made, "config": config, "results": []}))
    return path


@pytest.mark.parametrize(("names", "threads"), [([], []), (["memory"], []), (["memory"], [1])])
def test_a_result_that_asked_for_nothing_fails_and_says_so(
    names: list[str], threads: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = empty_result(tmp_path, names, threads)
    assert check_ratios.main(["--from", str(path), "--markdown"]) == 1
    assert capsys.readouterr().err.startswith("nothing was measured: ")


def test_an_empty_result_fails_and_names_every_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = empty_result(tmp_path, list(BY_NAME), [1, 2])
    assert check_ratios.main(["--from", str(path)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("not measured: ")
    assert line.count(" at ") == sum(len(metric.targets) for metric in METRICS)


def test_fewer_rounds_than_five_are_measured_and_not_judged(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--only", "permute,kv_int8", "--threads", "1", "--rounds", "4", "--json"]
    assert check_ratios.main(given) == 1
    streams = capsys.readouterr()
    assert streams.err.splitlines()[-1] == (
        "not judged, measured in fewer than 5 rounds: permute at 1 thread, kv_int8 at 1 thread"
    )
    assert [row["ok"] for row in json.loads(streams.out)["results"]] == [None, None]


def test_the_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_ratios.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "1 when one was missed, not measured, or measured in fewer than 5 rounds" in text
    assert "--model NAME|FILE a registry name or a GGUF file [default: smollm2-135m]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "99999"], "threads is 99999; floors are set for 1 and 2"),
        (["--threads", "1,3"], "threads is 3; floors are set for 1 and 2"),
        (["--rounds", "0"], "rounds is 0; it must be 1 or more"),
        (["--rounds", "some"], "argument --rounds: invalid int value: 'some'"),
        (["--only", ""], "no ratio given"),
        (["--only", "speed"], "unknown ratio 'speed'"),
        (["--only", "memory", "--model", "no-such-model"], "model 'no-such-model'"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ratios, "peer_python", lambda _: None)
    with pytest.raises(InputError) as error:
        check_ratios.main(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_memory_is_growth_over_weights_and_cache_and_64_mib() -> None:
    mib = 1 << 20
    probe = {"before_bytes": 50 * mib, "peak_bytes": 200 * mib}
    probe |= {"weights_bytes": 100 * mib, "kv_bytes": 36 * mib}
    assert growth_ratio(probe) == 0.75
