"""Run every test that needs a GPU, or say in one line why none ran: `make test-gpu`.

    python tests/gpu/run.py
    python tests/gpu/run.py --python .venv-gpu/bin/python  # step 3 with this one's libraries

Without a usable device nothing is built, and that is no error. With one:

1. the C++ tests of the CUDA engine (tests/cuda), built for this device and run on it
   (ctest -L gpu);
2. a part of them under compute-sanitizer: memcheck, racecheck, initcheck and synccheck, once each;
3. `pytest -m gpu`, on a `_cuda` module built here; its last lines say what was skipped, and why.

A compiler that is missing is an error, and so is compute-sanitizer, unless `--without-sanitizers`
does without it. `--build-only` stops before the first thing that needs a device, and builds for
sm_87 and sm_90a where there is none.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import device_build as build
from device_build import BUILD, ROOT, cuda_toolkit, run, tool

RESULTS = BUILD / "python_tests.xml"
TARGETS = ["gpu_tests", "_cuda"]
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
    # The second has every type and group, the third parts that share a launch.
    "gpu_test_cuda_matmul": ["updates_of_segments", "columns_permuted", "parts_of_one_input"],
    "gpu_test_cuda_prepare_input": ["stacked_adapters", "the_residual", "chosen_rows"],
    "gpu_test_cuda_store_kv": ["batches_of_random_shapes"],
    "gpu_test_cuda_attention_shield": ["a_sequence_gets_the_same_bits"],
    "gpu_test_cuda_sampling": ["a_flat_distribution", "zeros_of_either_sign"],
    "gpu_test_device_decoder": ["many_sealed_sequences"],
    "gpu_test_device_steps": ["sixteen_sequences_are_a_graph"],
}


def cases_in_cpp() -> int:
    """C++ cases that a device would run."""
    folder = ROOT / "tests" / "cuda"
    sources = [*folder.glob("test_*.cpp"), *(folder / "gpu").glob("test_*.cpp")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return len(re.findall(r"^TEST\(", text, re.MULTILINE))


def marked_files() -> list[str]:
    """Files with tests marked gpu: a Python for them need not have what all the others import."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [p for p in paths if "pytest.mark.gpu" in p.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in marked]


def cases_in_python(python: str) -> int:
    """Python tests that a device would run, by pytest's own count."""
    command = [python, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", *marked_files()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"^(\d+)(?:/\d+)? tests? collected", done.stdout, re.MULTILINE)
    if found is None:
        build.stop(f"pytest could not collect the tests:\n{done.stdout}{done.stderr}")
    return int(found.group(1))


def check_packages(python: str) -> None:
    """End the program where this Python cannot run the tests at all."""
    command = [python, "-c", "import pytest, pytest_timeout, ptmo_secure._native"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
        build.stop(f"{python} cannot run the tests ({why}): run `make setup`, or say --python")


def skipped(results: Path) -> Counter[str]:
    """Tests that pytest skipped, by file and reason."""
    if not results.is_file():
        return Counter()
    found: Counter[str] = Counter()
    for case in ElementTree.parse(results).iter("testcase"):
        for skip in case.iter("skipped"):
            found[f"{case.get('classname', '')}: {skip.get('message', '')}"] += 1
    return found


def sanitize(checker: str) -> bool:
    """The kernels under each tool of compute-sanitizer."""
    passed = True
    for name, environment in SANITIZERS.items():
        for program, cases in SANITIZED.items():
            command = [checker, "--tool", name, "--error-exitcode", "9", str(BUILD / program)]
            passed &= run(f"{name}: {program}", [*command, *cases], **environment)
    return passed


def test(python: str, without_sanitizers: bool) -> bool:
    """Build for the device that is there, and run everything."""
    if not build.build("native", TARGETS, python):
        return False
    os.environ["PTMO_DEVICE_EXPECTED"] = "1"  # from here on, a test that finds none fails
    # Verbose: programs that pass say too what they skipped, and how much memory they searched.
    tests = ["--test-dir", str(BUILD), "-L", "gpu", "--verbose", "--no-tests=error"]
    passed = run("the C++ tests on the device", [tool("ctest"), *tests])
    checker = None if without_sanitizers else cuda_toolkit.compute_sanitizer()
    if checker is not None:
        passed &= sanitize(checker)
    run("the real model, for the tests that need it", [tool("ptmo"), "model", "pull"])
    RESULTS.unlink(missing_ok=True)  # an earlier run's
    tests = ["-m", "pytest", "-m", "gpu", f"--junitxml={RESULTS}", *marked_files()]
    passed &= run("the Python tests on the device", [python, *tests])
    missing = []  # last, where it is read
    if checker is None:
        why = "--without-sanitizers" if without_sanitizers else "neither beside nvcc nor on PATH"
        missing.append(f"compute-sanitizer ({', '.join(SANITIZERS)}): {why}")
    missing += [f"{count} of {what}" for what, count in sorted(skipped(RESULTS).items())]
    print("", *(f"NOT RUN: {line}" for line in missing), sep="\n")
    return passed and (checker is not None or without_sanitizers)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--build-only", action="store_true", help="compile, and run nothing")
    parser.add_argument(
        "--without-sanitizers", action="store_true", help="do without compute-sanitizer"
    )
    parser.add_argument("--python", default=sys.executable, help="the Python of the Python tests")
    options = parser.parse_args(arguments)
    python = build.interpreter(options.python)
    devices, why = cuda_toolkit.usable_devices()
    if not options.build_only:
        check_packages(python)
    if not devices and not options.build_only:
        print(f"test-gpu skipped: {why}; not run: {cases_in_cpp()} C++ cases, "
              f"{cases_in_python(python)} Python tests")  # fmt: skip
        return 0
    if cuda_toolkit.nvcc() is None:
        print(f"error: {cuda_toolkit.NO_COMPILER}", file=sys.stderr)
        return 1
    if options.build_only:
        passed = build.build("native" if devices else ARCHS_WITHOUT_A_DEVICE, TARGETS, python)
    else:
        passed = test(python, options.without_sanitizers)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
