"""What holds for every test: none touches the state of a real device, and libraries use one thread.

The tests run two files at a time (Makefile), so a second thread of a BLAS or of torch only takes a
core from the other file; such threads wait by spinning, which then costs more than it gains.

Tests marked `gpu` run where the CUDA engine is built and a device is there, and skip elsewhere; the
reason and the count stand in the summary. With PTMO_DEVICE_EXPECTED set, as `make test-gpu` sets it
once it has seen a device, having to skip is an error.
"""

import functools
import importlib
import os
from pathlib import Path

import pytest

for library in ("OPENBLAS", "OMP", "MKL"):  # read when NumPy and torch are imported, by test files
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# Begun first, so that with two files at a time none of them is left for the end.
LONGEST = (
    "attacks/test_kv_real_model.py",
    "engine/test_real_model.py",
    "engine/test_real_gemma3.py",
    "tee/",
    "sealed/",
    "test_examples.py",
    "engine/",
)


@functools.cache
def why_no_device():
    """Return None where the CUDA engine can be used, else the reason why not."""
    try:
        module = importlib.import_module("ptmo_secure._cuda")
    except ImportError as error:
        return f"the CUDA engine is not built ({error})"
    count, why = module.devices()
    return None if count else f"no usable CUDA device ({why or 'none is there'})"


def skip_without_a_device(items):
    ours = [item for item in items if item.get_closest_marker("gpu")]
    if not ours or why_no_device() is None:
        return
    if os.environ.get("PTMO_DEVICE_EXPECTED"):
        pytest.exit(f"a device was expected: {why_no_device()}", returncode=1)
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"GPU: {why_no_device()}"))


@pytest.hookimpl(
    trylast=True
)  # after `-m`: where no test of a device is wanted, none is looked for
def pytest_collection_modifyitems(items):
    here = Path(__file__).parent

    def place(item):
        name = item.path.relative_to(here).as_posix() if here in item.path.parents else ""
        return next((i for i, long in enumerate(LONGEST) if name.startswith(long)), len(LONGEST))

    items.sort(key=place)
    skip_without_a_device(items)


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("skipped", [])
    if skipped := [report for report in reports if "'Skipped: GPU: " in str(report.longrepr)]:
        terminalreporter.write_line(f"GPU: {len(skipped)} tests not run: {why_no_device()}")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """The default folder of sealed state, for the programs that tests start as well."""
    folder = tmp_path_factory.mktemp("state") / "none"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "PTMO_STATE", str(folder))
        yield folder
