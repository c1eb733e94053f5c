"""Saved sessions of a device that outlives its process: back after a restart, never an old one."""

import json
import os
import random
import shutil

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.sealed import newest
from ptmo_secure.sealed.store import VERSIONS, SealedStore
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(29).integers(0, 250, 41)]
MORE = [5, 9, 200, 31]
HEADER_BYTES = 96
OLD = "an older version than the newest (ROLLED_BACK)"
UNKNOWN = "unknown to the counter: its file was rolled back or replaced, or the object was removed"
CHANGED = "changed, or sealed by another device (MAC_INVALID)"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, state, **fields):
    given = {"context_tokens": 64, "cache_tokens": 128, "threads": 1, "shield": "seal", **fields}
    return Engine.load(model, tee_state=state, **given)


def save(engine, path, ids=IDS):
    session = engine.start_session()
    session.feed(ids)
    session.save(path)
    return session


def refusal(engine, path):
    with pytest.raises(SecurityError) as refused:
        engine.resume(path)
    text = str(refused.value)
    assert "\n" not in text and text.startswith(f"{path}: ")
    return text[len(f"{path}: ") :]


@pytest.mark.parametrize("fields", [{}, {"shield": "permute", "restore": "tee"}], ids=str)
def test_a_session_outlives_the_program_that_saved_it(model, tmp_path, fields):
    path, state = tmp_path / "session", tmp_path / "device"
    with load(model, state, **fields) as engine:
        session = save(engine, path)
        expected = session.feed(MORE, all_logits=True)
    with load(model, state, **fields) as engine:
        resumed = engine.resume(path)
        assert resumed.tokens == IDS
        assert np.array_equal(resumed.feed(MORE, all_logits=True), expected)
    with load(model, tmp_path / "another", **fields) as engine:
        assert refusal(engine, path) == CHANGED
    with load(model, None, **fields) as engine:
        assert "another TEE saved it (MAC_INVALID)" in refusal(engine, path)
    with load(model, state, **fields) as engine:
        assert engine.resume(path).tokens == IDS


def test_a_session_outlives_the_tee_that_saved_it(model, tmp_path):
    with load(model, tmp_path / "device") as engine:
        save(engine, tmp_path / "session")
        first = engine._tee.client.pid
        os.kill(first, 9)
        engine._tee.client._channel.process.wait(10)
        assert engine.resume(tmp_path / "session").tokens == IDS
        assert engine._tee.client.pid != first


@pytest.mark.parametrize("restart", [False, True])
def test_each_kind_of_tampering_with_a_saved_session_is_named(model, tmp_path, restart):
    state = tmp_path / "device"
    path, other = tmp_path / "session", tmp_path / "other"
    engine = load(model, state)
    save(engine, path, IDS[::-1])
    old = path.read_bytes()
    save(engine, path)
    save(engine, other, MORE)
    newest_bytes, others = path.read_bytes(), other.read_bytes()
    cases = [
        (old, OLD),
        (others, f"the file of another object, sealed as {other} (WRONG_OBJECT)"),
        (newest_bytes[:-1], "the file is cut short or has bytes too many (TRUNCATED)"),
        (newest_bytes + b"\0", "the file is cut short or has bytes too many (TRUNCATED)"),
        (newest_bytes[:90], "not a file of this kind and version (BAD_FORMAT)"),
        (b"x" + newest_bytes[1:], "not a file of this kind and version (BAD_FORMAT)"),
        (newest_bytes[:96] + old[96:], "record 0 does not authenticate: the file was changed"),
        (old[:96] + newest_bytes[96:], CHANGED),
        (newest_bytes[:-1] + bytes([newest_bytes[-1] ^ 1]), "page 1 does not authenticate"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        if restart:
            engine.close()
            engine = load(model, state)
        assert refusal(engine, path).startswith(message)
        assert engine.session is None or engine.session.tokens == MORE
    path.write_bytes(newest_bytes)
    assert engine.resume(path).tokens == IDS
    assert engine.resume(other).tokens == MORE
    engine.close()


def test_a_copy_opens_elsewhere_until_its_place_has_a_newer_version(model, tmp_path):
    path, copy = tmp_path / "session", tmp_path / "copy"
    with load(model, tmp_path / "device") as engine:
        save(engine, path)
        shutil.copy(path, copy)
        assert engine.resume(copy).tokens == IDS
        save(engine, path, MORE)
        assert refusal(engine, copy).startswith(UNKNOWN)
        os.replace(path, tmp_path / "moved")
        assert engine.resume(tmp_path / "moved").tokens == MORE
        with pytest.raises(InputError, match="No such file"):
            engine.resume(path)


def check_flips(model, saved, count):
    """Change a byte, and expect the error that its place is documented to give."""
    state, path = saved
    data = path.read_bytes()
    rng = random.Random(11)
    places = (
        range(len(data)) if count is None else rng.sample(range(HEADER_BYTES, len(data)), count)
    )
    with load(model, state) as engine:
        for place in sorted({*range(HEADER_BYTES), *places}):
            changed = bytearray(data)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            engine.reset()
            text = refusal(engine, path)
            if place < 8:
                assert "(BAD_FORMAT)" in text
            elif place < HEADER_BYTES:
                assert text == CHANGED
            else:
                assert "does not authenticate" in text and text.endswith("(MAC_INVALID)")
            assert engine.session is None and engine.dump_device_memory().pages == b""
        path.write_bytes(data)
        assert engine.resume(path).tokens == IDS


@pytest.fixture
def saved(model, tmp_path):
    with load(model, tmp_path / "device") as engine:
        save(engine, tmp_path / "session")
    return tmp_path / "device", tmp_path / "session"


def test_a_changed_byte_of_a_saved_session_is_named(model, saved):
    check_flips(model, saved, count=saved[1].stat().st_size // 50)


@pytest.mark.slow
def test_every_changed_byte_of_a_saved_session_is_named(model, saved):
    check_flips(model, saved, count=None)


def test_a_save_cut_off_before_it_was_settled_leaves_the_old_session_and_the_new(
    model, tmp_path, monkeypatch
):
    path, state = tmp_path / "session", tmp_path / "device"
    with load(model, state) as engine:
        save(engine, path, MORE)
        old = path.read_bytes()
        session = engine.start_session()
        session.feed(IDS)
        with monkeypatch.context() as patched:

            def die(*_):
                raise KeyboardInterrupt

            patched.setattr(newest.NewestVersions, "settle", die)
            with pytest.raises(KeyboardInterrupt):
                session.save(path)
    new = path.read_bytes()
    assert new != old
    for first, tokens, second in ((old, MORE, new), (new, IDS, old)):
        before = tmp_path / f"device-{len(tokens)}"
        shutil.copytree(state, before)
        path.write_bytes(first)
        with load(model, before) as engine:
            assert engine.resume(path).tokens == tokens
            path.write_bytes(second)  # what was found to be there is the newest from then on
            assert refusal(engine, path) == OLD


def test_what_the_device_knows_of_its_sessions_is_sealed_and_dated(model, saved):
    state, path = saved
    index = state / "objects" / "_versions.sealed"
    stale = index.read_bytes()
    assert str(path).encode() not in stale
    with SealedStore.open(state) as store:
        assert list(json.loads(store.get(VERSIONS))) == [str(path)]
    with load(model, state) as engine:
        save(engine, path, MORE)
        index.write_bytes(stale)
        with pytest.raises(SecurityError, match="an older version than the newest"):
            engine.resume(path)
        index.unlink()
        with pytest.raises(SecurityError, match=r"_versions\.sealed: .*removed while the counter"):
            engine.resume(path)


def test_a_device_serves_one_engine_at_a_time(model, tmp_path):
    with load(model, tmp_path / "device") as engine:
        with pytest.raises(EngineError, match="device: in use by another program or engine"):
            load(model, tmp_path / "device")
        assert engine.start_session().feed([1]).shape[0] == 1
    with pytest.raises(InputError, match="a debug root key and tee_state"):
        load(model, tmp_path / "device", tee_debug_root_key=bytes(32))
    for wrong in ("", "a\0b", 7):
        with pytest.raises(InputError, match=r"tee_state .* is not a path"):
            load(model, wrong)


def test_epochs_of_a_device_rise_over_restarts_and_no_seal_key_returns(model, tmp_path):
    epochs, pages = [], []
    for start in range(1, 4):
        with load(model, tmp_path / "device") as engine:
            for _ in range(2):
                session = engine.start_session()
                session.feed(IDS[:8])
                epochs.append(engine._tee.client.status()["epoch"])
                assert epochs[-1] >> 32 == start
                dump = engine.dump_device_memory()
                assert dump.sequence_numbers()[0, 0] == 0
                pages.append(dump.pages[dump.layout.data_offset :])
    assert epochs == sorted(set(epochs)) and len(epochs) == 6
    assert len(set(pages)) == 6  # one plaintext under one counter: the keys differ


def test_one_root_key_and_one_epoch_seal_alike(model):  # what the pages above would look like
    pages = []
    for _ in range(2):
        with load(model, None, tee_debug_root_key=bytes(range(32))) as engine:
            engine.start_session().feed(IDS[:8])
            dump = engine.dump_device_memory()
            pages.append(dump.pages[dump.layout.data_offset :])
    assert pages[0] == pages[1]


def test_a_device_that_knows_many_files_forgets_those_that_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(newest, "MAX_FILES", 3)
    with SealedStore.open(tmp_path / "device") as store:
        known = newest.NewestVersions(store)

        def put(name):
            with known.replacing(tmp_path / name, name.encode()) as file:
                file.write(name.encode())

        for name in ("a", "b", "c", "a"):
            put(name)
        with pytest.raises(EngineError, match="d: the device knows 3 sealed files: remove some"):
            put("d")
        assert not (tmp_path / "d").exists()
        (tmp_path / "b").unlink()
        put("d")
        assert [known.knows(tmp_path / name) for name in "abcd"] == [True, False, True, True]
        (tmp_path / "b").write_bytes(b"b")  # a forgotten version does not come back
        with pytest.raises(SecurityError, match="COUNTER_ROLLED_BACK"):
            known.check(tmp_path / "b", b"b", lambda: True)
