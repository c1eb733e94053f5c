import tempfile
from pathlib import Path

import pytest

from tests.sealed_files import memory_folder


@pytest.fixture
def base(tmp_path):
    """A folder of the test's own, in memory where that can be."""
    with tempfile.TemporaryDirectory(dir=memory_folder(tmp_path)) as made:
        yield Path(made)
