import pytest
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
