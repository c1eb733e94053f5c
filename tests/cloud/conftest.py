"""A guard, a server on loopback and a client between them, for the tests of the cloud path."""

import pytest

from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.cloud.retries import RetryPolicy
from ptmo_secure.cloud.types import CloudRequest
from tee_sim.client import TeeClient
from tests.cloud.hostile_server import HostileServer


@pytest.fixture(scope="module")
def guard():
    with TeeClient.launch("guard") as client:
        yield client


@pytest.fixture
def vault(guard):
    with guard.open_vault("ann") as opened:
        yield opened


@pytest.fixture
def server():
    with HostileServer() as listening:
        yield listening


@pytest.fixture
def egress(guard, tmp_path):
    return Egress(guard, EgressLog(tmp_path / "egress"))


@pytest.fixture
def make(server, egress):
    """Make clients of the server; waits between attempts are noted and not waited."""
    made = []

    def build(provider=None, model="a-model", **more):
        waits = []
        more.setdefault("retry", RetryPolicy(attempts=1))
        client = CloudClient(
            provider or provider_at(server.url, "here"),
            model,
            egress=egress,
            environ=more.pop("environ", {}),
            sleep=more.pop("sleep", waits.append),
            **more,
        )
        client.waits = waits
        made.append(client)
        return client

    yield build
    for client in made:
        client.close()


@pytest.fixture
def cleared(egress, vault):
    """A clearance for the vault, for the whole test."""
    with egress.clearance(vault, "test", user="ann", session="s1") as given:
        yield given


def asking(text="What is Python?", **more):
    return CloudRequest(({"role": "user", "content": text},), **more)
