"""Several providers and models at once: each its own answer, one egress, one set of caps."""

import time

import pytest

from ptmo_secure.cloud.breaker import BreakerState
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.clouds import Clouds
from ptmo_secure.cloud.providers import Provider
from ptmo_secure.errors import CloudError, EgressRefusedError, InputError
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking


@pytest.fixture
def other():
    with hostile.HostileServer() as listening:
        yield listening


@pytest.fixture
def clouds(server, other, egress):
    providers = {
        "one": Provider("one", server.url, default_model="big"),
        "two": Provider("two", other.url, default_model="small"),
    }
    with Clouds(providers, egress, SpendCaps()) as opened:
        yield opened


def test_models_are_asked_at_the_same_time(clouds, server, other, cleared):
    server.default, other.default = (
        hostile.slow(hostile.chat("first"), 1.0),
        hostile.slow(hostile.chat("second"), 1.0),
    )
    before = time.monotonic()
    names = ("one", "one/org/another", "two")
    replies = clouds.complete_each({name: asking() for name in names})
    assert time.monotonic() - before < 2.9  # one after the other they would take three
    assert [replies[name].text for name in names] == ["first", "first", "second"]
    assert {request.json["model"] for request in server.requests} == {"big", "org/another"}


def test_one_failure_leaves_the_others(clouds, server, other, cleared):
    server.default = hostile.status(400)
    replies = clouds.complete_each({"one": asking(), "two": asking()})
    assert isinstance(replies["one"], CloudError) and replies["one"].code == "rejected"
    assert replies["two"].text == "ok"


def test_without_a_clearance_none_is_sent(clouds, server, other):
    with pytest.raises(EgressRefusedError):
        clouds.complete_each({"one": asking(), "two": asking()})
    assert server.received == other.received == b""


def test_the_next_model_is_asked_when_one_fails(clouds, server, other, cleared):
    server.default = hostile.status(404)
    reply = clouds.complete_first(["one", "two"], asking())
    assert (reply.provider, reply.model) == ("two", "small")
    other.default = hostile.status(403)
    with pytest.raises(CloudError, match="403"):
        clouds.complete_first(["one", "two"], asking())
    with pytest.raises(InputError, match="no model"):
        clouds.complete_first([], asking())


def test_models_of_one_provider_share_its_breaker(clouds):
    breaker = clouds.get("one").breaker
    assert clouds.get("one/another").breaker is breaker is not clouds.get("two").breaker
    for _ in range(5):
        breaker.enter().failed()
    assert clouds.get("one/another").breaker.state is BreakerState.OPEN


def test_a_name_nobody_knows_is_the_callers_mistake(clouds):
    with pytest.raises(InputError, match="choose from one, two"):
        clouds.get("three/big")
    with pytest.raises(InputError, match="17 requests"):
        clouds.complete_each({f"one/{n}": asking() for n in range(17)})
    assert clouds.get("one") is clouds.get("one")
