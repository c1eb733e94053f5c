"""What holds for every test: none touches the state of a real device, and libraries use one thread.

The tests run two files at a time (Makefile), so a second thread of a BLAS or of torch only takes a
core from the other file; such threads wait by spinning, which then costs more than it gains.
"""

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


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent

    def place(item):
        name = item.path.relative_to(here).as_posix() if here in item.path.parents else ""
        return next((i for i, long in enumerate(LONGEST) if name.startswith(long)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """The default folder of sealed state, for the programs that tests start as well."""
    folder = tmp_path_factory.mktemp("state") / "none"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "PTMO_STATE", str(folder))
        yield folder
