"""Shared memory is the host's and may change at any moment: a command believes one reading of it.

At each call that a handler makes, one run after the other, the memory it was given is exchanged for
other content, and back at the next call. What comes of it is what one of the two gives, whole:
never what was checked of the one with what is used of the other.
"""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from local_tee import AtCalls, launch_local

from tee_sim import storage
from tee_sim.client import TeeClient
from tee_sim.errors import ResultCode, TeeError
from tee_sim.protocol import AttestCommand, StoreCommand
from tee_sim.verify import unverified

A, B = b"A" * 32, b"B" * 32
OLD, NEW, OTHER = b"the old version", b"the new version", b"another object."


def outcomes(make, command, given, exchanged, call):
    """What a command comes to, its memory exchanged at each of its calls: results, or codes' names.

    Args:
        make: gives the client, the application's name, and the session whose window it is.
        given, exchanged: what the call puts at the window's start, and what stands there meanwhile.
        call: takes the session.
    """
    found, n, last = set(), 0, 1
    while n < last:
        n += 1
        client, application, session = make()

        def exchange(calls, n=n, session=session):
            if calls in (n, n + 1):
                session._window.buffer[: len(given)] = exchanged if calls == n else given

        watched = AtCalls(client, application, command, exchange)
        try:
            found.add(call(session))
        except TeeError as refused:
            found.add(ResultCode(refused.code).name)
        watched.stop()
        last = watched.calls
    assert n > 10
    return found


@pytest.fixture
def tee():
    return launch_local(TeeClient)


@pytest.fixture
def store(tee):
    opened = tee.open_store()
    opened.start(b"")
    return opened


def put(store, object_id, plain):
    sealed = store.seal(object_id, plain)
    store.commit(object_id)
    return sealed


@pytest.mark.parametrize("instead", ["ROLLED_BACK", "WRONG_OBJECT"])
def test_unseal_opens_the_version_that_it_checked_or_names_the_other(tee, store, instead):
    old, other, new = put(store, A, OLD), put(store, B, OTHER), put(store, A, NEW)
    found = outcomes(
        lambda: (tee, "store", store),
        *(StoreCommand.UNSEAL, new, old if instead == "ROLLED_BACK" else other),
        lambda session: session.unseal(A, new),
    )
    assert found == {NEW, instead}


def test_start_takes_the_record_that_it_authenticated(store):
    put(store, A, OLD)
    record = store.counter()
    forged = record.replace(record[28:32], bytes(4), 1)  # another lineage, under the same MAC
    assert forged != record

    def make():
        tee = launch_local(TeeClient)
        return tee, "store", tee.open_store()

    def lineage(session):
        session.start(record)
        return session.counter()[16:32]

    found = outcomes(make, StoreCommand.START, record, forged, lineage)
    assert found == {record[16:32], "MAC_INVALID"}


def test_evidence_answers_one_nonce_whole(tee):
    nonces = {bytes(range(32)), bytes(range(32, 64))}
    given, exchanged = sorted(nonces)
    found = outcomes(
        lambda: (tee, "attest", tee),
        *(AttestCommand.GET_EVIDENCE, given, exchanged),
        lambda session: unverified(session.evidence(given)).nonce,
    )
    assert found == nonces


def test_what_is_sealed_can_change_no_more_when_the_cipher_has_it(store, monkeypatch):
    """Of two passes over a plaintext, one would see it before a change, and one after."""

    class Meddled:
        def __init__(self, key):
            self._cipher = AESGCMSIV(key)

        def encrypt(self, nonce, plain, header):
            store._window.buffer[: len(plain)] = OTHER
            return self._cipher.encrypt(nonce, plain, header)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "AESGCMSIV", Meddled)
        sealed = put(store, A, NEW)
    assert store.unseal(A, sealed) == NEW
