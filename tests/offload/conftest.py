"""Data that the offloading tests share."""

import os
from pathlib import Path

import pytest

from ptmo_secure.offload import outcomes


@pytest.fixture(scope="session")
def data():
    """The folder of real outcome tables, where there is one."""
    near = [folder / "shared" / "data" for folder in Path(__file__).resolve().parents]
    named = os.environ.get("PTMO_DATA")
    for folder in [Path(named)] if named else near:
        if folder.is_dir():
            return folder
    pytest.skip("no outcome tables: name their folder in PTMO_DATA")


@pytest.fixture(scope="session")
def m4a1(data):
    """The real conversations of M4A1."""
    if not (data / "m4a1.json").is_file():
        pytest.skip("the data folder has no m4a1.json")
    return outcomes.load_m4a1(data)
