"""Tests marked `gpu` run where the CUDA engine is built and a device is there, and skip elsewhere.

The reason and the count stand in the summary. With PTMO_DEVICE_EXPECTED set, as `make test-gpu`
sets it once it has seen a device, having to skip is an error.

PTMO_EMULATED_MODULE names a folder with the module of an emulated device (`make test-emulated`). A
process can load one module of the two, so that these tests then have a process of their own.
"""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.test_shields_bit_equal import SHAPES
from tests.tiny_models import make_tiny_model

HERE = Path(__file__).parent


def load_emulated(folder: Path) -> None:
    """Make the module in `folder` the one that `import ptmo_secure._cuda` finds."""
    found = sorted(folder.glob("_cuda*.so"))
    if not found:
        pytest.exit(f"no emulated device in {folder}: run `make test-emulated`", returncode=1)
    spec = importlib.util.spec_from_file_location("ptmo_secure._cuda", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ptmo_secure._cuda"] = module
    spec.loader.exec_module(module)


if folder := os.environ.get("PTMO_EMULATED_MODULE"):
    load_emulated(Path(folder))
    collect_ignore = ["test_gpu_attacks.py", "test_gpu_real_model.py"]  # hours on an emulator


@functools.cache
def why_no_device() -> str | None:
    """Return None where the CUDA engine can be used, else the reason why not."""
    try:
        module = importlib.import_module("ptmo_secure._cuda")
    except ImportError as error:
        return f"the CUDA engine is not built ({error})"
    count, why = module.devices()
    return None if count else f"no usable CUDA device ({why or 'none is there'})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if not ours or why_no_device() is None:
        return
    if os.environ.get("PTMO_DEVICE_EXPECTED"):
        pytest.exit(f"a device was expected: {why_no_device()}", returncode=1)
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"GPU: {why_no_device()}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if f"GPU: {why_no_device()}" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(f"GPU: {len(skipped)} tests not run: {why_no_device()}")


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Paths of tiny models, by shape and quantisation, each made once."""

    @functools.cache
    def make(shape: str, quant: str = "Q4_1") -> Path:
        path: Path = make_tiny_model(tmp_path_factory.mktemp("model"), quant, **SHAPES[shape]).path
        return path

    return make
