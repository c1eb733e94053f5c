"""The scripts of tests/gpu on a machine without any toolkit, for the tests of them."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def without_toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tests/gpu/device_build.py, where no toolkit is found but in tmp_path / "toolkit"."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    module = importlib.import_module("device_build")
    monkeypatch.setattr(module.cuda_toolkit, "TOOLKIT", tmp_path / "toolkit")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    return module


def program(path: Path, text: str = "exit 0") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def devices(monkeypatch: pytest.MonkeyPatch, build: ModuleType, count: int) -> None:
    monkeypatch.setattr(
        build.cuda_toolkit, "usable_devices", lambda: (count, "" if count else "none is there")
    )
