"""Run every test that needs a GPU, or say in one line why none ran: `make test-gpu`.

    python tests/gpu/run.py

Without a CUDA compiler or a usable device nothing is built, and that is no error. With both:

1. the C++ tests of the CUDA engine (tests/cuda), built for this device and run on it
   (ctest -L gpu);
2. a part of them under compute-sanitizer, where that is on PATH: memcheck, racecheck, initcheck
   and synccheck, once each;
3. `pytest -m gpu`, on a `_cuda` module built here.

`--build-only` stops before the first thing that needs a device, and builds for sm_87 and sm_90a
where there is none.
"""

import argparse
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu"
ARCHS_WITHOUT_A_DEVICE = "87;90a"
SANITIZERS: dict[str, dict[str, str]] = {  # the tool, and what it wants in the environment
    "memcheck": {},
    "racecheck": {},
    "initcheck": {"PTMO_NO_POISON": "1"},  # poison is a value: reading it would be no error
    "synccheck": {},
}
# Programs and cases that launch every kernel and are small enough for minutes under a tool. Cases
# are named by parts of their names; none: all.
SANITIZED = {
    "gpu_test_cuda_embed": [],
    "gpu_test_cuda_rotary_table": [],
    "gpu_test_cuda_matmul": ["updates_of_segments"],
    "gpu_test_cuda_prepare_input": ["stacked_adapters", "the_residual", "chosen_rows"],
    "gpu_test_cuda_store_kv": ["batches_of_random_shapes"],
    "gpu_test_cuda_attention_shield": ["a_sequence_gets_the_same_bits"],
    "gpu_test_cuda_sampling": ["a_flat_distribution", "zeros_of_either_sign"],
    "gpu_test_device_decoder": ["many_sealed_sequences"],
    "gpu_test_device_steps": ["sixteen_sequences_are_a_graph"],
}


def tool(name: str) -> str:
    """Path of a program that a PyPI package put beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        sys.exit(f"error: {name} not found: run `make setup`")
    return found


def usable_devices() -> tuple[int, str]:
    """(usable CUDA devices, why there is none), as the driver says; needs no build."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no CUDA driver (libcuda.so.1 is not there)"
    if (error := driver.cuInit(0)) != 0:
        return 0, f"the CUDA driver does not start (cuInit: error {error})"
    count = ctypes.c_int()
    if (error := driver.cuDeviceGetCount(ctypes.byref(count))) != 0:
        return 0, f"the CUDA driver counts no devices (error {error})"
    return count.value, "" if count.value else "the CUDA driver sees no device"


def nvcc() -> str | None:
    """The CUDA compiler CMake would take."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def cases_in_cpp() -> int:
    """C++ cases that a device would run."""
    folder = ROOT / "tests" / "cuda"
    sources = [*folder.glob("test_*.cpp"), *(folder / "gpu").glob("test_*.cpp")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return len(re.findall(r"^TEST\(", text, re.MULTILINE))


def cases_in_python() -> int:
    """Python tests that a device would run, by pytest's own count."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"^(\d+)(?:/\d+)? tests? collected", done.stdout, re.MULTILINE)
    if found is None:
        sys.exit(f"error: pytest could not collect tests/gpu:\n{done.stdout}{done.stderr}")
    return int(found.group(1))


def run(what: str, command: list[str], **environment: str) -> bool:
    """Run a command in the open; whether it succeeded."""
    print(f"\n== {what}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode != 0:
        print(f"error: {what} failed with exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def build(archs: str) -> bool:
    """The C++ tests and the `_cuda` module, for these compute capabilities."""
    import pybind11

    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        *("-DCMAKE_BUILD_TYPE=Release", "-DPTMO_CUDA=ON", "-DPTMO_GPU_TESTS=ON"),
        *("-DPTMO_BUILD_TESTS=OFF", "-DPTMO_BUILD_PYTHON=ON", f"-DPTMO_CUDA_ARCHS={archs}"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    targets = [tool("cmake"), "--build", str(BUILD), "--parallel", "--target", "gpu_tests", "_cuda"]
    if not (run(f"configuring for {archs}", configure) and run("building", targets)):
        return False
    for module in BUILD.glob("_cuda.*"):  # over one that was built for another device
        shutil.copy(module, ROOT / "ptmo_secure" / f"{module.name}.new")
        os.replace(ROOT / "ptmo_secure" / f"{module.name}.new", ROOT / "ptmo_secure" / module.name)
    return True


def sanitize() -> bool:
    """The kernels under each tool of compute-sanitizer; True where there is none."""
    checker = shutil.which("compute-sanitizer")
    if checker is None:
        print("\n== skipped: compute-sanitizer is not on PATH; memcheck, racecheck, initcheck and "
              "synccheck were not run")  # fmt: skip
        return True
    passed = True
    for name, environment in SANITIZERS.items():
        for program, cases in SANITIZED.items():
            command = [checker, "--tool", name, "--error-exitcode", "9", str(BUILD / program)]
            passed &= run(f"{name}: {program}", [*command, *cases], **environment)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--build-only", action="store_true", help="compile, and run nothing")
    options = parser.parse_args()
    devices, why = usable_devices()
    if nvcc() is None:
        why = "no CUDA compiler (nvcc is not on PATH)"
    if options.build_only and nvcc() is not None:
        return 0 if build("native" if devices else ARCHS_WITHOUT_A_DEVICE) else 1
    if why:
        print(f"test-gpu skipped: {why}; not run: {cases_in_cpp()} C++ cases, "
              f"{cases_in_python()} Python tests")  # fmt: skip
        return 0
    if not build("native"):
        return 1
    os.environ["PTMO_DEVICE_EXPECTED"] = "1"  # from here on, a test that finds none fails
    tests = ["--test-dir", str(BUILD), "-L", "gpu", "--output-on-failure", "--no-tests=error"]
    passed = run("the C++ tests on the device", [tool("ctest"), *tests])
    passed &= sanitize()
    run("the real model, for the tests that need it", [tool("ptmo"), "model", "pull"])
    passed &= run("the Python tests on the device", [sys.executable, "-m", "pytest", "-m", "gpu"])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
