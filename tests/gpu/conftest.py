"""Tests marked `gpu` run where the CUDA engine is built and a device is there, and skip elsewhere.

The reason and the count stand in the summary. With PTMO_DEVICE_EXPECTED set, as `make test-gpu`
sets it once it has seen a device, having to skip is an error.
"""

import functools
import importlib
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
