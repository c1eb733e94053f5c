"""Evidence of the TEE that holds an engine's keys, and of its successor."""

import os
import signal
import time

import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from tee_sim.verify import ArenaKind, Verifier, unverified
from tests.tiny_models import make_tiny_model

NONCE = bytes(range(16))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def test_a_running_engine_attests_and_does_so_anew_when_its_tee_was_restarted(model, tmp_path):
    state = tmp_path / "device"
    with Engine.load(model, threads=1, context_tokens=64, tee_state=state) as engine:
        session = engine.start_session()
        session.feed([1, 2, 3])
        first = engine.sessions.evidence(NONCE)
        verifier = Verifier([unverified(first).identity])
        before = verifier.verify(first, NONCE)
        expected = (
            ArenaKind.MEMFD_SECRET
            if engine.stats()["secret_arena"] == "memfd_secret"
            else ArenaKind.MEMFD
        )
        assert (before.debug, before.arena, before.epoch & 0xFFFFFFFF) == (False, expected, 1)
        os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
        while engine.sessions.tee.alive():
            time.sleep(0.01)
        after = verifier.verify(engine.sessions.evidence(b"another nonce"), b"another nonce")
        assert (after.boot_count, after.ueid) == (before.boot_count + 1, before.ueid)
        assert after.hpke_key != before.hpke_key
        assert session.closed  # nothing of before goes on


def test_evidence_is_refused_for_a_shield_without_a_tee_and_for_a_wrong_nonce(model):
    with Engine.load(model, threads=1, context_tokens=64, shield="none") as engine:
        with pytest.raises(InputError, match="'none' has no TEE"):
            engine.sessions.evidence(NONCE)
    with Engine.load(model, threads=1, context_tokens=64) as engine:
        for nonce in (b"short", bytes(65), "text of sixteen.", None):
            with pytest.raises(InputError, match="8 to 64 bytes"):
                engine.sessions.evidence(nonce)
