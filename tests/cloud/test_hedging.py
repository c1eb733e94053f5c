"""Hedging: the device begins when the cloud is late; the first that is done answers."""

import threading

import pytest

from ptmo_secure.cloud.hedging import hedge

LONG_S = 20.0


class Call:
    """A call to a cloud that begins and ends when it is told to."""

    def __init__(self) -> None:
        self.failed = self.cancelled = False
        self._begun = threading.Event()
        self._over = False
        self._listeners = []

    def wait_begun(self, timeout_s):
        return self._begun.wait(timeout_s)

    def when_over(self, call):
        self._listeners.append(call)
        if self._over:
            call()

    def begin(self):
        self._begun.set()

    def end(self, *, failed=False):
        self.failed, self._over = failed, True
        self._begun.set()
        for call in self._listeners:
            call()

    def cancel(self):
        self.cancelled = True


class Here:
    """The device's answer: two pieces, before each of which `before` is called."""

    def __init__(self, before=lambda: None, fails=None):
        self.before, self.fails = before, fails
        self.made, self.begun, self.closed = 0, threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        return self._pieces()

    def _pieces(self):
        try:
            for number in range(2):
                self.before()
                if self.fails is not None:
                    raise self.fails
                self.made += 1
                yield f"local {number}"
        finally:
            self.closed.set()


def test_a_cloud_that_has_begun_answers_alone():
    call, here = Call(), Here()
    call.begin()
    hedged = hedge(call, here, LONG_S)
    assert (hedged.winner, hedged.local) == ("cloud", None)
    assert not here.begun.is_set() and not call.cancelled


def test_a_cloud_that_fails_in_time_keeps_the_turn():
    call, here = Call(), Here()
    call.end(failed=True)
    assert hedge(call, here, LONG_S).winner == "cloud" and not here.begun.is_set()


def test_a_device_that_is_done_first_answers_and_the_call_is_cut():
    call = Call()
    hedged = hedge(call, Here(), 0)
    assert hedged.winner == "local" and call.cancelled
    assert list(hedged.local) == ["local 0", "local 1"]


def test_a_late_cloud_that_is_whole_first_answers_though_the_device_began_to_write():
    call, told = Call(), threading.Event()

    def slow():
        if here.made == 1:
            call.begin()
            call.end()
            told.wait(LONG_S)

    here = Here(slow)
    hedged = hedge(call, here, 0)
    assert hedged.winner == "cloud" and not call.cancelled
    told.set()
    assert here.closed.wait(LONG_S)
    hedged.local.join()
    assert not any(thread.name == "ptmo-hedge" for thread in threading.enumerate())


def test_a_late_cloud_that_has_only_begun_does_not_stop_the_device():
    call = Call()
    hedged = hedge(call, Here(call.begin), 0)
    assert hedged.winner == "local" and call.cancelled


def test_a_cloud_that_fails_late_leaves_the_turn_to_a_device_that_still_writes():
    call, read = Call(), threading.Event()

    def slow():
        if here.made == 0:
            call.end(failed=True)
        else:
            read.wait(LONG_S)

    here = Here(slow)
    hedged = hedge(call, here, 0)
    assert hedged.winner == "local"
    pieces = iter(hedged.local)
    assert next(pieces) == "local 0"  # shown before the answer is whole
    read.set()
    assert list(pieces) == ["local 1"]


def test_a_device_that_fails_leaves_the_turn_to_the_cloud():
    call = Call()
    assert hedge(call, Here(fails=RuntimeError("no engine")), 0).winner == "cloud"
    assert not call.cancelled


def test_when_both_fail_the_devices_failure_is_raised_to_whoever_reads():
    call = Call()
    hedged = hedge(call, Here(lambda: call.end(failed=True), RuntimeError("no engine")), 0)
    assert hedged.winner == "local"
    with pytest.raises(RuntimeError, match="no engine"):
        list(hedged.local)
