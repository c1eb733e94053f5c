import sys
from pathlib import Path

import pytest
from evidence_bench import Bench
from tee_helpers import ROOT_KEY, Arena

from tee_sim.client import TeeClient


@pytest.fixture
def tee():
    """A TEE process under the known test root key."""
    with TeeClient.launch(debug_root_key=ROOT_KEY) as client:
        yield client


@pytest.fixture
def arena():
    made = Arena()
    yield made
    made.close()


@pytest.fixture(scope="session")
def load_generator():
    """The module that writes the golden vectors."""
    vectors = str(Path(__file__).resolve().parent.parent / "vectors")
    sys.path.insert(0, vectors)
    try:
        import generate_tee
    finally:
        sys.path.remove(vectors)
    return generate_tee


@pytest.fixture
def bench(load_generator):
    """A device whose evidence the test writes."""
    return Bench(load_generator)
