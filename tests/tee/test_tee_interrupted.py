"""Whatever interrupts a call comes out when the TEE is done with it: nothing arrives late."""

import os
import signal
import threading
import time

import pytest
from tee_helpers import SMALL, Arena

from ptmo_secure.sealed.store import SealedStore
from tee_sim import channel
from tee_sim.client import TeeClient, TeeDeadError

CONTENT = b"the content of a large object, " * 100_000  # takes the TEE some milliseconds


@pytest.fixture
def interrupt(monkeypatch):
    """Have the next wait for a reply interrupted, right after the request was sent."""

    def armed(times=1):
        left = [times]
        real = channel.Channel._receive

        def receive(self):
            if left[0]:
                left[0] -= 1
                raise KeyboardInterrupt
            return real(self)

        monkeypatch.setattr(channel.Channel, "_receive", receive)

    return armed


def test_what_an_interrupted_read_was_about_to_bring_is_wiped(tmp_path, interrupt):
    with SealedStore.open(tmp_path / "device") as store:
        store.put("large", CONTENT)
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            store.get("large")
        window = store._calls._window
        assert bytes(window.buffer).count(b"content") == 0
        store.put("other", b"B" * len(CONTENT))
        assert store.get("other") == b"B" * len(CONTENT) and store.get("large") == CONTENT


def test_an_interrupted_command_never_writes_over_the_next_ones_data(tmp_path, interrupt):
    with SealedStore.open(tmp_path / "device") as store:
        store.put("large", CONTENT)
        for size in (1, 1000, len(CONTENT)):
            interrupt()
            with pytest.raises(KeyboardInterrupt):
                store.get("large")
            store.put("next", b"N" * size)
            assert store.get("next") == b"N" * size


def test_an_interrupted_opening_leaves_nothing_open(interrupt):
    arena = Arena()
    with TeeClient.launch() as tee:
        arena_id = tee.register_fd(arena.fd, arena.size)
        regions, used = tee.status()["regions"], tee.status()["used_bytes"]
        for opening in (
            lambda: tee.register_memory(4096),
            lambda: tee.open_model(SMALL),
            lambda: tee.new_epoch(arena_id, 0),
            lambda: tee.open_store(),
        ):
            for _ in range(3):
                interrupt()
                with pytest.raises(KeyboardInterrupt):
                    opening()
        status = tee.status()
        assert (status["regions"], status["used_bytes"]) == (regions, used)
        assert tee.stats().seal_keys == 0
    arena.close()


def test_a_second_interrupt_ends_the_tee(interrupt):
    with TeeClient.launch() as tee:
        interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            tee.open_model(SMALL)
        assert not tee.alive()
        with pytest.raises(TeeDeadError):
            tee.status()


def test_a_real_signal_in_the_middle_of_a_call_comes_out_after_it():
    def stop(*_):
        raise KeyboardInterrupt

    with TeeClient.launch() as tee:
        before = signal.signal(signal.SIGUSR1, stop)
        resumed = []

        def interrupt_and_go_on():
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            resumed.append(True)
            os.kill(tee.pid, signal.SIGCONT)

        try:
            os.kill(tee.pid, signal.SIGSTOP)
            other = threading.Thread(target=interrupt_and_go_on)
            other.start()
            with pytest.raises(KeyboardInterrupt):
                tee.open_model(SMALL)
            assert resumed  # not before the TEE could answer
            other.join()
            assert tee.status()["used_bytes"] == 0
        finally:
            signal.signal(signal.SIGUSR1, before)
