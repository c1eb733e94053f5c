"""What the tests of a device share; tests/conftest.py says where they run.

PTMO_EMULATED_MODULE names a folder with the module of an emulated device (`make test-emulated`). A
process can load one module of the two, so that these tests then have a process of their own.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.test_shields_bit_equal import SHAPES
from tests.tiny_models import make_tiny_model


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


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Paths of tiny models, by shape and quantisation, each made once."""

    @functools.cache
    def make(shape: str, quant: str = "Q4_1") -> Path:
        path: Path = make_tiny_model(tmp_path_factory.mktemp("model"), quant, **SHAPES[shape]).path
        return path

    return make
