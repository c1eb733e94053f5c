"""What `make test-gpu` runs, what it leaves out, and that it says so; without a GPU."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.gpu_scripts import ROOT, devices, program, without_toolkit

RESULTS = """\
<testsuites><testsuite>
<testcase classname="tests.gpu.test_gpu_tensors" name="passed"/>
<testcase classname="tests.gpu.test_gpu_tensors" name="libraries[cupy]">
<skipped type="pytest.skip" message="No module named 'cupy'">the place</skipped></testcase>
<testcase classname="tests.gpu.test_gpu_real_model" name="a">
<skipped type="pytest.skip" message="the model is not in the cache">the place</skipped></testcase>
<testcase classname="tests.gpu.test_gpu_real_model" name="b">
<skipped type="pytest.skip" message="the model is not in the cache">the place</skipped></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tests/gpu/device_build.py."""
    return without_toolkit(monkeypatch, tmp_path)


@pytest.fixture
def runner(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tests/gpu/run.py."""
    spec = importlib.util.spec_from_file_location("gpu_runner", ROOT / "tests" / "gpu" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "python_tests.xml")
    return module


def test_without_a_device_one_line_counts_what_was_not_run(
    build: ModuleType,
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    devices(monkeypatch, build, 0)
    monkeypatch.setattr(runner, "cases_in_python", lambda _: 7)
    assert runner.main([]) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(
        r"test-gpu skipped: none is there; not run: \d+ C\+\+ cases, 7 Python tests\n", line
    )


def test_a_device_without_a_compiler_is_an_error_in_one_line(
    build: ModuleType,
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    devices(monkeypatch, build, 1)
    assert runner.main([]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == f"error: {build.cuda_toolkit.NO_COMPILER}\n"


@pytest.mark.parametrize(("arguments", "code"), [([], 1), (["--without-sanitizers"], 0)])
def test_sanitizers_that_are_not_there_fail_unless_they_are_done_without(
    build: ModuleType,
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    devices(monkeypatch, build, 1)
    program(tmp_path / "toolkit" / "bin" / "nvcc")
    monkeypatch.setattr(build, "build", lambda *_: True)
    monkeypatch.setattr(runner, "run", lambda *_, **__: True)
    monkeypatch.setenv("PTMO_DEVICE_EXPECTED", "")  # the runner sets it; put back afterwards
    assert runner.main(arguments) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith("NOT RUN: compute-sanitizer (memch")


def test_the_last_lines_say_which_tests_a_device_s_run_left_out_and_why(
    build: ModuleType,
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    devices(monkeypatch, build, 1)
    program(tmp_path / "toolkit" / "bin" / "nvcc")
    results = runner.RESULTS
    results.write_text("of an earlier run")
    builds: list[tuple[Any, ...]] = []
    commands: list[list[str]] = []

    def run(what: str, command: list[str], **_: str) -> bool:
        commands.append(command)
        if what == "the Python tests on the device":
            assert not results.exists()
            results.write_text(RESULTS)
        return True

    monkeypatch.setattr(build, "build", lambda *given: builds.append(given) or True)
    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "check_packages", lambda _: None)
    monkeypatch.setenv("PTMO_DEVICE_EXPECTED", "")
    python = program(tmp_path / "other" / "python")
    assert runner.main(["--without-sanitizers", "--python", python]) == 0
    assert builds == [("native", ["gpu_tests", "_cuda"], python)]
    assert commands[-1][:5] == [python, "-m", "pytest", "-m", "gpu"]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "NOT RUN: compute-sanitizer (memcheck, racecheck, initcheck, synccheck): "
        "--without-sanitizers",
        "NOT RUN: 2 of tests.gpu.test_gpu_real_model: the model is not in the cache",
        "NOT RUN: 1 of tests.gpu.test_gpu_tensors: No module named 'cupy'",
    ]


def test_the_tests_of_a_device_are_those_of_every_folder(runner: ModuleType) -> None:
    marked = runner.marked_files()
    assert "tests/benchmarks/test_gpu_bench.py" in marked
    assert "tests/gpu/test_gpu_tensors.py" in marked
    assert "tests/test_pipeline.py" not in marked


def test_every_case_named_for_the_sanitizers_is_there(runner: ModuleType) -> None:
    for program_name, cases in runner.SANITIZED.items():
        source = ROOT / "tests" / "cuda" / f"{program_name.removeprefix('gpu_')}.cpp"
        text = source.read_text(encoding="utf-8")
        for case in cases:
            assert re.search(rf"^TEST\(\w*{case}", text, re.MULTILINE), (program_name, case)


@pytest.mark.parametrize("arguments", [[], ["--build-only"]])
def test_a_python_without_the_packages_is_an_error_in_one_line(
    arguments: list[str], tmp_path: Path
) -> None:
    compiler = program(tmp_path / "nvcc")
    bare = [sys.executable, "-S", "tests/gpu/run.py", *arguments]  # -S: without site-packages
    done = subprocess.run(
        [*bare, "--python", program(tmp_path / "python", f'exec {sys.executable} -S "$@"')],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "CUDACXX": compiler},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"error: .*(No module named 'pytest'|no pybind11).*`make setup`.*", line)


def gpu_tests_of_the_benchmarks(**more: str) -> subprocess.CompletedProcess[str]:
    """`pytest -m gpu`, in a process that sees no device, on a file that is not of tests/gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PTMO_DEVICE_EXPECTED", None)
    return subprocess.run(
        [*command, "tests/benchmarks/test_gpu_bench.py"],
        cwd=ROOT,
        env={**environment, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_marked_gpu_skips_without_a_device_with_one_reason() -> None:
    done = gpu_tests_of_the_benchmarks()
    assert done.returncode == 0, done.stdout
    assert re.search(r"^GPU: \d+ tests not run: ", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ skipped, \d+ deselected", done.stdout, re.MULTILINE)


def test_what_is_marked_gpu_fails_without_a_device_where_one_is_expected() -> None:
    done = gpu_tests_of_the_benchmarks(PTMO_DEVICE_EXPECTED="1")
    assert done.returncode == 1
    assert "a device was expected: " in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["test_gpu_attacks", "test_gpu_real_model"])
def test_a_real_model_has_time_beside_a_slow_processor(name: str) -> None:
    marks = importlib.import_module(f"tests.gpu.{name}").pytestmark
    assert [mark.args for mark in marks if mark.name == "timeout"] == [(1800,)]


def test_make_test_gpu_takes_the_python_of_the_tests() -> None:
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "test-gpu", "TEST_PYTHON=other/python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].endswith("tests/gpu/run.py --python other/python")
