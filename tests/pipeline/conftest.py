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


@pytest.fixture(scope="module")
def vault(guard):
    """A vault that masked a name, an address and a password."""
    with guard.open_vault("ann") as opened:
        masked = opened.mask("Write to Dr. Andre Novak at andre@novak.org, password hunter22-Xy.")
        for placeholder in ("[PERSON_1]", "[EMAIL_1]", "[SECRET_1]"):
            assert placeholder in masked.text
        yield opened
