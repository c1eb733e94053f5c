"""bench_gpu.py without a GPU: what it asks of the device, its table, its verdicts, its JSON."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_gpu
import pytest
from floors import GPU_BY_NAME, GPU_METRICS
from gpu import device as gpu_device
from gpu import measures, peers, rows
from ratios.measured import Measured

from ptmo_secure.errors import EngineError, InputError
from tests.benchmarks.gpu_fakes import FakeBench, FakeCuda, FakePeers

ALL_ROWS = sum(len(metric.variants) for metric in GPU_METRICS)


def driver_sees(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    answer = (count, "" if count else "the CUDA driver sees no device")
    monkeypatch.setattr(bench_gpu.cuda_toolkit, "usable_devices", lambda: answer)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setitem(sys.modules, "ptmo_secure._cuda", made)
    driver_sees(monkeypatch, 1)
    monkeypatch.setattr(bench_gpu, "find_torch", lambda: peers.NO_TORCH)
    return made


def by_place(found: list[rows.GpuRow]) -> dict[tuple[str, str], rows.GpuRow]:
    return {(row.metric, row.variant): row for row in found}


def test_every_metric_has_something_that_measures_it() -> None:
    assert list(measures.MEASURES) == list(GPU_BY_NAME)


@pytest.mark.parametrize("module", [FakeCuda(count=0), None])
def test_without_a_device_it_says_so_and_succeeds(
    module: FakeCuda | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ptmo_secure._cuda", module)
    driver_sees(monkeypatch, 0)
    path = tmp_path / "gpu.json"
    assert bench_gpu.main(["--output", str(path)]) == 0
    assert capsys.readouterr().out == (
        "bench_gpu: nothing was measured, there is no CUDA device to measure on: "
        "the CUDA driver sees no device\n"
    )
    assert not path.exists()


@pytest.mark.parametrize(
    ("module", "why"),
    [(None, "no module ptmo_secure._cuda"), (FakeCuda(count=0), "no CUDA-capable device")],
)
def test_a_device_without_a_module_that_can_use_it_fails_and_says_what_to_do(
    module: FakeCuda | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ptmo_secure._cuda", module)  # importing None fails
    driver_sees(monkeypatch, 1)
    with pytest.raises(EngineError, match=f"{why}.*; `make bench-gpu` builds it"):  # exit code 1
        bench_gpu.main([])


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_gpu, "measure", lambda *_: pytest.fail("it was measured"))
    for path in (tmp_path, tmp_path / "no-such-folder" / "gpu.json"):
        with pytest.raises(InputError, match=f"cannot write {path}: "):
            bench_gpu.main(["--output", str(path)])


def test_a_measurement_that_breaks_off_leaves_an_earlier_result_alone(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_gpu, "measure", interrupted)
    earlier, new = tmp_path / "earlier.json", tmp_path / "new.json"
    earlier.write_text("measured before")
    for path in (earlier, new):
        with pytest.raises(KeyboardInterrupt):
            bench_gpu.main(["--output", str(path)])
    assert earlier.read_text() == "measured before"
    assert not new.exists()


def test_the_table_is_printed_even_if_the_file_can_no_longer_be_written(
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        bench_gpu.main(["--only", "attention_int8", "--output", str(tmp_path / "gpu.json")])
    assert "attention_int8" in capsys.readouterr().out


def test_without_torch_ours_are_judged_and_the_peers_rows_say_why_not(
    cuda: FakeCuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    assert bench_gpu.main(["--output", str(path)]) == 1
    made = json.loads(path.read_text())
    assert list(made) == ["command", "commit", "machine", "config", "results", "ceilings"]
    assert made["ceilings"] == {"copy_GB_per_s": 1000.0}
    _, found = rows.read_result(path)
    assert len(found) == ALL_ROWS
    skipped = {row.metric for row in found if row.measured is None}
    assert skipped == {"gemv_bf16", "gemv_torch_int4", "gemm_16", "gemm_128", "smollm2_decode"}
    place = by_place(found)
    assert place["gemv_g128", "4096x14336"].measured == pytest.approx(0.7)
    assert place["lora_fused", "14336x4096"].measured == pytest.approx(1.3 / 1.25)
    assert place["lora_fused", "14336x4096"].detail["unfused"] == pytest.approx(2.0)
    assert place["attention_permuted", "2048"].measured == pytest.approx(1.02)
    assert place["attention_sealed", "8192"].measured == pytest.approx(1.2)
    assert place["attention_int8", "32768"].measured == pytest.approx(0.5)
    streams = capsys.readouterr()
    assert "not measured: no torch with CUDA" in " ".join(streams.out.split())
    incomplete = (
        "INCOMPLETE: 5 ratios not measured "
        "(gemv_bf16, gemv_torch_int4, gemm_16, gemm_128, smollm2_decode)"
    )
    assert streams.err.splitlines()[-1] == incomplete
    assert bench_gpu.main(["--from", str(path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == incomplete


def test_with_only_a_ratio_that_cannot_be_measured_fails_nothing(cuda: FakeCuda) -> None:
    assert bench_gpu.main(["--only", "gemv_bf16,gemv_g128"]) == 0


def test_what_fails_is_a_row_with_its_text_and_the_others_go_on(
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = cuda.MatmulBench

    def broken(**shape: Any) -> FakeBench:
        if shape["cols"] == 4096 and shape["group"] == 32:
            raise RuntimeError("a launch: an illegal memory access\nand more")
        return made(**shape)

    monkeypatch.setattr(cuda, "MatmulBench", broken)
    path = tmp_path / "gpu.json"
    names = "gemv_g32,attention_int8"
    assert bench_gpu.main(["--only", names, "--output", str(path)]) == 1
    streams = capsys.readouterr()
    said = "gemv_g32 at 14336x4096 failed: a launch: an illegal memory access"
    assert streams.err.splitlines()[-1] == said
    assert "FAILED" in streams.out
    found = by_place(rows.read_result(path)[1])
    assert found["gemv_g32", "14336x4096"].failed == "a launch: an illegal memory access"
    assert found["gemv_g32", "4096x14336"].ok is True
    assert found["attention_int8", "32768"].ok is True
    assert bench_gpu.main(["--from", str(path)]) == 1


def test_a_ceiling_that_cannot_be_measured_is_missing_and_no_more(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(_: FakePeers) -> FakeBench:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(FakePeers, "square_product", too_large)
    device = gpu_device.Device(cuda, FakePeers(SimpleNamespace()))
    (row,) = bench_gpu.measure(device, ["attention_sealed"])
    assert row.ok is True
    assert capsys.readouterr().err.splitlines()[0] == "ceilings not measured: CUDA out of memory"


def test_the_device_is_asked_for_the_shapes_that_the_floors_name(cuda: FakeCuda) -> None:
    assert bench_gpu.main(["--only", "gemv_g32,attention_sealed,attention_permuted"]) == 0
    assert [(each["rows"], each["cols"], each["planes"]) for each in cuda.matmuls] == [
        (14336, 4096, 1),
        (4096, 14336, 2),
    ]
    assert {each["group"] for each in cuda.matmuls} == {32}
    every = [*cuda.matmuls, *cuda.attentions]
    assert {each["working_set_bytes"] for each in every} == {400 << 20}  # four times the cache
    assert {(each["n_heads"], each["n_kv_heads"], each["dim"]) for each in cuda.attentions} == {
        (32, 8, 128)
    }
    assert [each["context"] for each in cuda.attentions] == [8192, 8192, *[2048] * 2, *[32768] * 2]


def test_beside_torch_a_ratio_is_the_peers_time_over_ours(cuda: FakeCuda) -> None:
    device = gpu_device.Device(cuda, FakePeers(SimpleNamespace()))
    found = by_place(bench_gpu.measure(device, ["gemv_bf16", "gemv_torch_int4", "gemm_128"]))
    bf16 = found["gemv_bf16", "14336x4096"]
    assert (bf16.measured, bf16.ok, bf16.goal_reached) == (3.0, True, False)
    assert bf16.detail == {"peer_us": 3000.0, "ours_us": 1000.0, "with_its_input": 3 / 1.25}
    reason = "torch does not run it here: not here"
    assert found["gemv_torch_int4", "14336x4096"].skipped == reason
    assert device.ceilings["bf16_TFLOP_per_s"] == pytest.approx(1000.0)


def test_a_missed_floor_fails_and_is_named(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Measured(1.3, (1.3,) * 5)
    monkeypatch.setitem(measures.MEASURES, "attention_sealed", lambda *_: slow)
    assert bench_gpu.main(["--only", "attention_sealed"]) == 1
    streams = capsys.readouterr()
    assert streams.err.splitlines()[-1] == "attention_sealed at 8192: 1.300 misses 1.25"
    assert "ABOVE" in streams.out


def test_fewer_rounds_than_five_are_measured_and_not_judged(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_gpu.main(["--only", "attention_int8", "--rounds", "4"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "not judged, measured in fewer than 5 rounds: attention_int8 at 32768"
    )


def test_an_earlier_result_is_judged_again_and_printed_for_the_readme(
    cuda: FakeCuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    assert bench_gpu.main(["--only", "gemv_g128,gemv_bf16", "--output", str(path)]) == 0
    made = json.loads(path.read_text())
    made["results"][0]["measured"] = 0.6
    path.write_text(json.dumps(made))
    capsys.readouterr()
    assert bench_gpu.main(["--from", str(path), "--markdown"]) == 1
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    assert lines[0].startswith(
        "`python benchmarks/bench_gpu.py --only gemv_g128,gemv_bf16 --output"
    )
    assert ", Fake H1; in the same run copy GB per s 1000:" in lines[0]
    assert {line.count("|") for line in lines[2:]} == {9}
    assert "| 14336x4096 | 0.60 | >= 0.65 | >= 0.80 | BELOW | 0.70 - 0.70 |" in lines[4]
    assert "| - | >= 2.80 | >= 3.40 | skipped | not measured: no torch with CUDA |" in lines[6]
    assert streams.err == "gemv_g128 at 14336x4096: 0.600 misses 0.65\n"
    assert bench_gpu.main(["--from", str(path), "--only", "gemv_bf16"]) == 0


def test_rows_come_back_from_their_json(tmp_path: Path) -> None:
    metric = GPU_BY_NAME["gemv_g128"]
    figures = (Measured(0.7, (0.7,) * 5, {"GB_per_s": 3.0}), "cold", rows.Failed("broken"))
    found = [rows.row(metric, "14336x4096", figure) for figure in figures]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(rows.result("python x.py", {"device": "x"}, {}, found)))
    assert rows.read_result(path)[1] == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "list indices"),
        ('{"results": [{"metric": "speed"}]}', "'speed' is missing or unknown"),
        ('{"results": [{"metric": "gemv_g32", "variant": "1x1"}]}', "has no shape '1x1'"),
        ('{"results": [{"metric": "gemv_g32", "variant": "14336x4096", "measured": NaN}]}', "NaN"),
        ('{"results": []}', "'ceilings' is missing or unknown"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"other\.json: no result of bench_gpu\.py: ") as error:
        rows.read_result(path)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "unknown ratio 'speed'"),
        (["--only", ""], "no ratio given"),
        (["--rounds", "0"], "rounds is 0; it must be 1 or more"),
        (["--from", "no-such.json"], "no-such.json: no result of bench_gpu.py: "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        bench_gpu.main(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_gpu.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "0 when no floor was missed, and where there is no CUDA device" in text
    assert "without --only a ratio was not measured" in text


@pytest.mark.gpu
@pytest.mark.parametrize("call", ["matmul", "input-matmul", "fused-update", "unfused-update"])
def test_on_a_device_every_product_takes_time(call: str) -> None:
    cuda, why = gpu_device.find_module()
    assert cuda is not None, why
    device = gpu_device.Device(cuda, peers.NO_TORCH)
    bench = device.matmul("4096x14336", call)
    assert bench.milliseconds() > 0
    assert bench.working_set_bytes > 2 * cuda.cache_bytes()
    assert gpu_device.gb_per_s(device.copy) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("element", ["int8", "int4", "fp16"])
@pytest.mark.parametrize("sealed", [False, True])
def test_on_a_device_attention_takes_time(element: str, sealed: bool) -> None:
    cuda, why = gpu_device.find_module()
    assert cuda is not None, why
    device = gpu_device.Device(cuda, peers.NO_TORCH)
    for how in ({}, {"store": True, "angles": "per-head"}):
        assert device.attention(element, 2048, sealed=sealed, **how).milliseconds() > 0
