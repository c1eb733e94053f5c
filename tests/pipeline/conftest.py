"""A guard for all tests of the pipeline, and worlds between it and a server on loopback."""

from contextlib import ExitStack

import pytest
from worlds import world

from tee_sim.client import TeeClient


@pytest.fixture(scope="module")
def guard():
    with TeeClient.launch("guard", poll_us=0) as client:
        yield client


@pytest.fixture
def make(guard, tmp_path):
    """Make worlds that end with the test."""
    with ExitStack() as held:
        yield lambda **more: held.enter_context(world(tmp_path, guard, **more))
