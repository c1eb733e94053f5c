"""How a GPU's scripts find their tools, and what is built for a device; without a GPU."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.gpu_scripts import ROOT, devices, program, without_toolkit


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tests/gpu/device_build.py."""
    return without_toolkit(monkeypatch, tmp_path)


def test_the_compiler_is_found_where_jetpack_has_it(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert build.cuda_toolkit.nvcc() is None
    jetpack = program(tmp_path / "toolkit" / "bin" / "nvcc")
    assert build.cuda_toolkit.nvcc() == jetpack
    at_home = program(tmp_path / "home" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert build.cuda_toolkit.nvcc() == at_home
    on_path = program(tmp_path / "path" / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert build.cuda_toolkit.nvcc() == on_path
    monkeypatch.setenv("CUDACXX", jetpack)
    assert build.cuda_toolkit.nvcc() == jetpack
    monkeypatch.setenv("CUDACXX", "no-such-compiler")
    with pytest.raises(SystemExit, match="CUDACXX=no-such-compiler is no program"):
        build.cuda_toolkit.nvcc()


def test_compute_sanitizer_is_found_beside_the_compiler(build: ModuleType, tmp_path: Path) -> None:
    program(tmp_path / "toolkit" / "bin" / "nvcc")
    assert build.cuda_toolkit.compute_sanitizer() is None
    beside = program(tmp_path / "toolkit" / "bin" / "compute-sanitizer")
    assert build.cuda_toolkit.compute_sanitizer() == beside


def test_compute_sanitizer_is_found_behind_a_link_to_the_compiler(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = program(tmp_path / "cuda" / "bin" / "nvcc")
    beside = program(tmp_path / "cuda" / "bin" / "compute-sanitizer")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "nvcc").symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert build.cuda_toolkit.compute_sanitizer() == beside


def test_a_device_is_built_for_in_a_folder_of_its_own_and_takes_the_modules_place(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = program(tmp_path / "toolkit" / "bin" / "nvcc")
    commands: list[list[str]] = []
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "build" / "gpu")
    monkeypatch.setattr(build, "run", lambda _, command: commands.append(command) or True)
    monkeypatch.setattr(build, "tool", lambda name: name)
    (tmp_path / "ptmo_secure").mkdir()
    (tmp_path / "build" / "gpu").mkdir(parents=True)
    name = build.module_name(sys.executable)
    (tmp_path / "build" / "gpu" / name).write_text("for this device")
    (tmp_path / "ptmo_secure" / name).write_text("for another")
    assert build.build("native", ["_cuda"])
    configure, make = commands
    folder = str(tmp_path / "build" / "gpu")
    assert configure[configure.index("-B") + 1] == folder
    assert {
        "-DPTMO_CUDA=ON",
        "-DPTMO_CUDA_ARCHS=native",
        f"-DCMAKE_CUDA_COMPILER={compiler}",
    } <= set(configure)
    assert make == ["cmake", "--build", folder, "--parallel", "--target", "_cuda"]
    assert (tmp_path / "ptmo_secure" / name).read_text() == "for this device"


def test_without_a_device_nothing_is_built_for_the_benchmark(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices(monkeypatch, build, 0)
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("it was built"))
    monkeypatch.setattr(sys, "argv", ["device_build.py", "--python", sys.executable])
    assert build.main() == 0
    assert capsys.readouterr().out == ""


def test_a_device_without_a_compiler_is_an_error_in_one_line(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, build, 1)
    monkeypatch.setattr(sys, "argv", ["device_build.py", "--python", sys.executable])
    with pytest.raises(SystemExit, match="no CUDA compiler"):
        build.main()


def test_ci_compiles_for_a_device_where_path_names_no_compiler(tmp_path: Path) -> None:
    for name in (".ci/run", "kernels/cuda/cuda_toolkit.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("make", ".venv/bin/python"):
        program(tmp_path / "path" / name, f'echo {name} "$@"')
    (tmp_path / ".venv").symlink_to(tmp_path / "path" / ".venv")
    for name in ("bash", "dirname", "uname", "id"):
        (tmp_path / "path" / name).symlink_to(str(shutil.which(name)))
    program(tmp_path / "home" / "bin" / "nvcc")
    environment = {"PATH": str(tmp_path / "path"), "PYTHON": sys.executable}

    def lines(**more: str) -> list[str]:
        done = subprocess.run(
            [str(tmp_path / ".ci" / "run")],
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        return [*done.stdout.splitlines(), f"exit {done.returncode}"]

    assert lines(CUDA_HOME=str(tmp_path / "home")) == [
        "make build-cuda",
        ".venv/bin/python tests/gpu/run.py --build-only",
        "make test",
        "exit 0",
    ]
    assert lines(CUDACXX="no-such-compiler") == ["exit 1"]


def test_make_bench_gpu_asks_the_driver_and_builds_for_the_python_that_measures() -> None:
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "bench-gpu", "BENCH_PYTHON=other/python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folder, pull, module, bench = done.stdout.splitlines()[-4:]
    assert folder == "mkdir -p out"  # nothing stands between that looks for a device by itself
    assert pull.endswith("/ptmo model pull")
    assert module.endswith("tests/gpu/device_build.py --python other/python")
    assert bench == "other/python benchmarks/bench_gpu.py --output out/gpu.json"


def cuda_options(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    options: Any = runpy.run_path(str(ROOT / "setup.py"))["cuda_options"]
    found: list[str] = options()
    return found


def test_pip_install_builds_for_what_the_environment_names_and_else_for_cmakes_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PTMO_CUDA_ARCHS", "87;90a")
    assert cuda_options(monkeypatch) == ["-DPTMO_CUDA=AUTO", "-DPTMO_CUDA_ARCHS=87;90a"]
    monkeypatch.delenv("PTMO_CUDA_ARCHS")
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    default = re.search(r"set\(PTMO_CUDA_ARCHS (\S+) CACHE", cmake)
    assert default is not None
    assert cuda_options(monkeypatch)[1] == f"-DPTMO_CUDA_ARCHS={default.group(1)}"


def test_architectures_that_are_none_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTMO_CUDA_ARCHS", "sm_87")
    with pytest.raises(SystemExit, match="PTMO_CUDA_ARCHS='sm_87': say native"):
        cuda_options(monkeypatch)
