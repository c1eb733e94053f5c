"""What CMake compiles the CUDA engine by and for; without a GPU."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOUND = Path(sys.executable).with_name("cmake")  # the venv's own, else the one on PATH
CMAKE = str(FOUND) if FOUND.is_file() else "cmake"


def script(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """What lines of CMake print that use cmake/cuda.cmake."""
    path = folder / "script.cmake"
    path.write_text("\n".join([f'include("{ROOT}/cmake/cuda.cmake")', *lines]))
    return subprocess.run([CMAKE, "-P", str(path)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("archs", "compiler", "code"),
    [
        ("87", "11.8.89", "87-real"),
        ("87;90a", "13.0.88", "87-real;90a-real"),
        ("90", "13.0.88", "90a-real"),
        ("90;90a;90", "12.0.76", "90a-real"),
        ("90", "11.8.89", "90-real"),
    ],
)
def test_every_architecture_is_machine_code_alone_and_hopper_is_the_one_of_the_gate(
    tmp_path: Path, archs: str, compiler: str, code: str
) -> None:
    done = script(
        tmp_path,
        f"set(CMAKE_CUDA_COMPILER_VERSION {compiler})",
        f'ptmo_machine_code("{archs}" code)',
        'message(STATUS "${code}")',
    )
    assert (done.returncode, done.stdout) == (0, f"-- {code}\n")


@pytest.mark.parametrize("arch", ["87-virtual", "87-real", "sm_87", "all"])
def test_what_may_hold_more_than_machine_code_is_refused_by_name(tmp_path: Path, arch: str) -> None:
    done = script(tmp_path, f"ptmo_machine_code({arch} code)")
    assert done.returncode != 0
    assert f"PTMO_CUDA_ARCHS: '{arch}' is no compute capability" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("11.4.315", "the CUDA engine needs CUDA 11.8 or newer, the compiler is of 11.4.315"),
        ("11.8.89", ""),
        ("13.0.88", ""),
    ],
)
def test_a_compiler_that_is_too_old_is_named(tmp_path: Path, version: str, why: str) -> None:
    done = script(tmp_path, f"ptmo_old_cuda({version} why)", 'message(STATUS "${why}")')
    assert (done.returncode, done.stdout.strip()) == (0, f"-- {why}".strip())


def test_documents_name_the_oldest_compiler() -> None:
    cmake = (ROOT / "cmake" / "cuda.cmake").read_text(encoding="utf-8")
    oldest = re.search(r"PTMO_OLDEST_CUDA ([\d.]+)", cmake)
    assert oldest is not None
    for name in ("CONTRIBUTING.md", "docs/cuda.md"):
        assert f"CUDA {oldest.group(1)}" in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_the_kernels_are_compiled_to_machine_code_alone(tmp_path: Path) -> None:
    build = tmp_path / "build"
    done = subprocess.run(
        [
            *(CMAKE, "-S", str(ROOT), "-B", str(build), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"),
            *("-DPTMO_CUDA=ON", "-DPTMO_CUDA_ARCHS=87;90", "-DPTMO_BUILD_PYTHON=OFF"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    commands = json.loads((build / "compile_commands.json").read_text())
    kernels = [each["command"] for each in commands if each["file"].endswith(".cu")]
    assert len(kernels) == len(list((ROOT / "kernels" / "cuda").glob("*.cu")))
    for command in kernels:
        code = re.findall(r",code=\[?([^\]\s\"]+)", command)
        assert code == ["sm_87", "sm_90a"], command
