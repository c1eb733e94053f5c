"""One tiny model, and one server of it, for all tests of a file."""

import pytest

from tests.serve.serving import serving_model
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny model's file."""
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1", context_length=2048).path


@pytest.fixture(scope="module")
def served(model):
    """A server without limits that matter."""
    with serving_model(model) as served:
        yield served


@pytest.fixture
def client(served):
    """The unmodified OpenAI client of it."""
    with served.client() as client:
        yield client
