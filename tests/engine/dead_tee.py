"""Ends an engine's TEE, and checks what a run in progress makes of it, on any device."""

import os
import signal
import time

import pytest

from ptmo_secure.errors import TEE_DIED, TeeDiedError


def kill_tee(engine):
    """End the TEE process and wait until its client has noticed."""
    os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 5
    while engine._tee.alive() and time.monotonic() < deadline:
        time.sleep(0.01)


def check_that_a_dead_tee_ends_the_run(engine):
    """In the middle of an answer: it fails, nothing is left of its rows, the next one is whole."""
    expected = "".join(engine.generate("hello there", max_tokens=12))
    engine.reset()
    pieces = engine.generate("hello there", max_tokens=400)
    next(pieces)
    kill_tee(engine)
    with pytest.raises(TeeDiedError) as error:
        list(pieces)
    assert str(error.value) == TEE_DIED
    assert engine.dump_device_memory().pages == b""
    assert "".join(engine.generate("hello there", max_tokens=12)) == expected
