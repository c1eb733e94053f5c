"""`ptmo doctor` and the JSON envelope."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ptmo_secure import cli, doctor, results
from ptmo_secure.doctor import Check, run_checks
from ptmo_secure.results import envelope, machine_facts, to_json

NAMES = [
    *("python", "compiler", "cpu", "memory", "gpu", "native module", "CUDA module"),
    *(
        "memfd_secret",
        "memlock limit",
        "seccomp",
        "ptrace scope",
        "swap",
        "model cache",
        "TEE core",
        "TEE guard",
    ),
]


def test_doctor_looks_at_everything_and_says_something_of_each() -> None:
    checks = run_checks()
    assert [check.name for check in checks] == NAMES
    assert all(check.status in ("ok", "warn", "fail") for check in checks)
    assert all(check.detail and "\n" not in check.detail for check in checks)


def test_both_tee_processes_start() -> None:
    found = {check.name: check for check in run_checks()}
    for role in ("TEE core", "TEE guard"):
        assert found[role].detail.startswith("starts"), found[role]


def test_a_check_that_raises_is_a_failure_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> tuple[doctor.Status, str]:
        raise OSError("no /proc here")

    monkeypatch.setattr(doctor, "_swap", break_down)
    found = {check.name: check for check in run_checks()}
    assert found["swap"] == Check("swap", "fail", "OSError: no /proc here")
    assert found["python"].status == "ok"


def test_a_missing_native_module_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import ptmo_secure

    monkeypatch.delattr(ptmo_secure, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "ptmo_secure._native", None)
    found = {check.name: check for check in run_checks()}
    assert found["native module"].status == "fail"
    assert "pip install" in found["native module"].detail


def cuda_check(monkeypatch: pytest.MonkeyPatch, module: object, gpu: str | None) -> Check:
    monkeypatch.setattr(doctor, "gpu_name", lambda: gpu)
    monkeypatch.setitem(sys.modules, "ptmo_secure._cuda", module)
    return next(check for check in run_checks() if check.name == "CUDA module")


def cuda_module(count: int, why: str) -> SimpleNamespace:
    return SimpleNamespace(
        architectures="sm_87 sm_90a", devices=lambda: (count, why), device_name=lambda: "Orin"
    )


@pytest.mark.parametrize(("gpu", "status"), [(None, "ok"), ("Orin", "warn")])
def test_a_cuda_module_that_is_not_built_or_not_usable_matters_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, status: doctor.Status
) -> None:
    found = cuda_check(monkeypatch, None, gpu)
    assert (found.status, found.detail.split(";")[0]) == (status, "not built")
    found = cuda_check(monkeypatch, cuda_module(0, "no CUDA driver is installed"), gpu)
    assert found.status == status
    assert found.detail == "code for sm_87 sm_90a; not usable: no CUDA driver is installed"


def test_a_cuda_module_that_is_usable_says_what_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cuda_check(monkeypatch, cuda_module(1, ""), "Orin")
    assert found == Check("CUDA module", "ok", "code for sm_87 sm_90a; runs on Orin")


@pytest.mark.parametrize(
    ("compatible", "name"),
    [
        ("nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0", "NVIDIA Jetson AGX Orin"),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None),
    ],
)
def test_a_board_is_a_gpu_only_if_it_is_a_jetson(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compatible: str, name: str | None
) -> None:
    files = {"compatible": compatible, "model": "NVIDIA Jetson AGX Orin\0"}
    monkeypatch.setattr(results, "read_lines", lambda path: [files[Path(path).name]])
    monkeypatch.setattr(results, "_DRIVER", tmp_path)
    assert results.gpu_name() == name


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_exits_1_only_on_a_failure(
    status: doctor.Status,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [Check("thing", status, "detail")])
    assert cli.main(["doctor", "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert value["results"] == [{"name": "thing", "status": status, "detail": "detail"}]
    assert cli.main(["doctor"]) == code
    assert "thing" in capsys.readouterr().out


def test_the_envelope_says_what_ran_and_where() -> None:
    value = envelope("ptmo x", {"seed": 1}, [{"a": 2}])
    assert list(value) == ["command", "commit", "machine", "config", "results"]
    assert (value["command"], value["config"], value["results"]) == (
        "ptmo x",
        {"seed": 1},
        [{"a": 2}],
    )
    assert set(machine_facts()) == {"cpu", "cores", "ram_bytes", "gpu", "python"}
    cores, ram = machine_facts()["cores"], machine_facts()["ram_bytes"]
    assert isinstance(cores, int) and cores >= 1
    assert isinstance(ram, int) and ram > 1 << 28


def test_json_takes_numpy_scalars_and_refuses_nan() -> None:
    assert to_json({"a": np.float32(0.5), "b": np.int64(3)}) == '{"a": 0.5, "b": 3}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})
