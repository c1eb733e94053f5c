"""Hedging: the device begins when the cloud is late; the first answer wins, the other ends."""

import contextvars
import threading
import time

import pytest

from ptmo_secure.cloud.hedging import hedge
from ptmo_secure.errors import CloudError
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking

SLOW_S = 5.0


class Answer:
    """An answer that waits before its first piece, until it is cancelled."""

    def __init__(self, name, wait_s=0.0, pieces=2, fails=None):
        self.name, self.wait_s, self.left, self.fails = name, wait_s, pieces, fails
        self.stop = threading.Event()
        self.begun = threading.Event()
        self.closed = threading.Event()

    def __call__(self):
        self.begun.set()
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.wait_s and self.stop.wait(self.wait_s):
            raise StopIteration
        self.wait_s = 0.0
        if self.fails is not None:
            raise self.fails
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.name

    def cancel(self):
        self.stop.set()

    def close(self):
        self.closed.set()


def test_a_quick_cloud_answers_alone():
    cloud, local = Answer("cloud"), Answer("local")
    hedged = hedge(cloud, local, SLOW_S)
    assert hedged.winner == "cloud" and list(hedged.pieces) == ["cloud", "cloud"]
    assert not local.begun.is_set() and hedged.cloud_failure is None


def test_a_late_cloud_is_overtaken_and_cancelled():
    cloud, local = Answer("cloud", SLOW_S), Answer("local")
    before = time.monotonic()
    hedged = hedge(cloud, local, 0.05)
    assert hedged.winner == "local" and list(hedged.pieces) == ["local", "local"]
    assert cloud.closed.wait(SLOW_S) and time.monotonic() - before < SLOW_S


def test_a_cloud_that_is_late_but_still_first_wins():
    cloud, local = Answer("cloud", 0.3), Answer("local", SLOW_S)
    hedged = hedge(cloud, local, 0.05)
    assert hedged.winner == "cloud" and list(hedged.pieces) == ["cloud", "cloud"]
    assert local.closed.wait(SLOW_S)


def test_a_cloud_that_fails_is_replaced_at_once():
    failure = CloudError("no", "server")
    before = time.monotonic()
    hedged = hedge(Answer("cloud", fails=failure), Answer("local"), SLOW_S)
    assert hedged.winner == "local" and hedged.cloud_failure is failure
    assert list(hedged.pieces) == ["local", "local"] and time.monotonic() - before < SLOW_S


def test_when_both_fail_the_devices_failure_is_raised():
    local = RuntimeError("no engine")
    for cloud_s, after_s in ((0, SLOW_S), (0.3, 0.05)):
        cloud = Answer("cloud", cloud_s, fails=CloudError("no", "server"))
        with pytest.raises(RuntimeError, match="no engine"):
            hedge(cloud, Answer("local", fails=local), after_s)


def test_an_answer_that_fails_after_it_began_stays_the_answer():
    def cloud():
        yield "begun"
        raise CloudError("broke off", "connection")

    hedged = hedge(cloud, Answer("local"), SLOW_S)
    assert next(hedged.pieces) == "begun"
    with pytest.raises(CloudError):
        next(hedged.pieces)
    assert list(hedged.pieces) == []


def test_an_empty_answer_is_an_answer():
    hedged = hedge(Answer("cloud", pieces=0), Answer("local"), SLOW_S)
    assert hedged.winner == "cloud" and list(hedged.pieces) == []


def test_answers_run_with_the_callers_context():
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    hedged = hedge(lambda: iter([variable.get()]), Answer("local"), SLOW_S)
    assert list(hedged.pieces) == ["the caller's"]


def test_a_long_answer_that_nobody_reads_ends_when_it_is_closed():
    cloud = Answer("cloud", pieces=10**9)
    hedged = hedge(cloud, Answer("local"), SLOW_S)
    next(hedged.pieces)
    hedged.pieces.close()
    assert cloud.closed.wait(SLOW_S) and list(hedged.pieces) == []


def test_a_stalled_provider_is_cut_and_its_thread_ends(make, server, cleared):
    server.script = [hostile.silent()]
    client, before = make(), threading.active_count()
    hedged = hedge(lambda: (delta.text for delta in client.stream(asking())), Answer("local"), 0.3)
    assert hedged.winner == "local" and list(hedged.pieces) == ["local", "local"]
    assert threading.active_count() >= before  # a generator hides `cancel`: it ends by its deadline


def test_a_stalled_stream_given_as_it_is_ends_at_once(make, server, cleared):
    server.script = [hostile.silent()]
    client = make()
    hedged = hedge(lambda: client.stream(asking()), lambda: iter(["local"]), 0.3)
    assert hedged.winner == "local" and list(hedged.pieces) == ["local"]
    end = time.monotonic() + 10
    while any(thread.name == "hedge-cloud" for thread in threading.enumerate()):
        assert time.monotonic() < end, "the cloud's thread still waits"
        time.sleep(0.01)
