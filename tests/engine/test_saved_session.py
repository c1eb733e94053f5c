"""Sessions in files: the same rows come back, or one clear error and no row."""

import os
import random
import stat
import struct

import numpy as np
import pytest

from ptmo_secure.engine.config import MAX_SEALED_SESSIONS
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import CapacityError, EngineError, InputError, PtmoError, SecurityError
from tests.tiny_models import make_tiny_model

ROOT_KEY = bytes(range(32))
IDS = [int(i) for i in np.random.default_rng(23).integers(0, 250, 41)]
MORE = [5, 9, 200, 31]
HEADER_BYTES = 96
SHIELDS = [
    {"shield": "seal"},
    {"shield": "permute", "restore": "folded"},
    {"shield": "permute", "restore": "tee"},
    {"shield": "permute+seal"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, **fields):
    return Engine.load(model, **{"context_tokens": 128, "threads": 1, "shield": "seal", **fields})


def one_by_one(session, ids):
    return np.concatenate([session.feed([i]) for i in ids])


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A saved session of IDS under a debug root key, and the logits of MORE after it."""
    path = tmp_path_factory.mktemp("saved") / "session"
    with load(model, tee_debug_root_key=ROOT_KEY) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.prompt_tokens = 30
        session.save(path)
        return path, one_by_one(session, MORE)


@pytest.mark.parametrize("fields", SHIELDS, ids=str)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("n", [1, 32, 41])
def test_a_resumed_session_goes_on_bit_for_bit(model, tmp_path, fields, kv_dtype, n):
    with load(model, kv_dtype=kv_dtype, **fields) as engine:
        session = engine.start_session()
        session.feed(IDS[:n])
        session.save(tmp_path / "session")
        expected = one_by_one(session, MORE)
        resumed = engine.resume(tmp_path / "session")
        assert session.closed and resumed is engine.session
        assert resumed.tokens == IDS[:n]
        assert np.array_equal(one_by_one(resumed, MORE), expected)


@pytest.mark.parametrize("fields", [*SHIELDS, {"rows_per_page": 32, "threads": 3}], ids=str)
def test_a_session_moves_to_another_engine_and_another_shield_under_one_root_key(
    model, saved, fields
):
    path, expected = saved
    with load(model, tee_debug_root_key=ROOT_KEY, **fields) as engine:
        engine.start_session().feed([1, 2, 3])
        session = engine.resume(path)
        assert session.tokens == IDS
        assert session.prompt_tokens == 30
        assert session.adapter_tag == 0
        assert np.array_equal(one_by_one(session, MORE), expected)


def test_a_permuted_session_is_saved_in_the_models_order(model, tmp_path):
    with load(model, shield="permute", tee_debug_root_key=ROOT_KEY) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(tmp_path / "session")
        expected = one_by_one(session, MORE)
    with load(model, tee_debug_root_key=ROOT_KEY) as engine:  # sealed, not permuted
        assert np.array_equal(one_by_one(engine.resume(tmp_path / "session"), MORE), expected)


def test_resumed_rows_stand_under_a_new_key_and_new_numbers(model, tmp_path):
    with load(model) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.truncate(0)
        session.feed(IDS)
        session.save(tmp_path / "session")
        before = engine.dump_device_memory()
        engine.resume(tmp_path / "session")
        after = engine.dump_device_memory()
    assert not set(before.headers()["epoch"]) & set(after.headers()["epoch"])
    assert not set(before.headers()["session"]) & set(after.headers()["session"])
    assert before.sequence_numbers()[0, 0] == 41 and after.sequence_numbers()[0, 0] == 0
    data = slice(before.layout.data_offset, before.layout.data_offset + 1024)
    assert before.pages[data] != after.pages[data]


def test_generate_continues_a_resumed_conversation(model, tmp_path):
    question = [{"role": "user", "content": "hello there"}]
    with Engine.load(model, shield="seal", threads=1) as engine:
        answer = "".join(engine.generate(question, max_tokens=6))
        engine.session.save(tmp_path / "session")
        next_turn = [
            *question,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "and then?"},
        ]
        expected = "".join(engine.generate(next_turn, max_tokens=6))
        prefilled = engine.last_run.prefilled_tokens
        engine.resume(tmp_path / "session")
        assert "".join(engine.generate(next_turn, max_tokens=6)) == expected
        assert engine.last_run.prefilled_tokens == prefilled < engine.last_run.prompt_tokens


def test_an_empty_session_is_saved_and_resumed(model, tmp_path):
    with load(model) as engine:
        engine.start_session().save(tmp_path / "session")
        session = engine.resume(tmp_path / "session")
        assert session.tokens == []
        assert session.feed([1]).shape[0] == 1


def test_a_saved_fork_holds_its_own_rows(model, tmp_path):
    with load(model, cache_tokens=256) as engine:
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        fork.truncate(35)
        fork.feed(MORE)
        session.feed([1, 2])
        fork.save(tmp_path / "session")
        expected = fork.feed([3])
        resumed = engine.resume(tmp_path / "session")
        assert resumed.tokens == IDS[:35] + MORE
        assert np.array_equal(resumed.feed([3]), expected)


def test_the_file_is_the_users_alone_and_holds_no_token_and_no_row(model, tmp_path):
    path = tmp_path / "session"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with load(model, shield="permute", kv_dtype="fp32") as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(path)
        dump = engine.dump_device_memory()
    data = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["session"]
    assert struct.pack("<4I", *IDS[:4]) not in data
    rows = np.concatenate([dump.rows(layer, which) for layer in range(2) for which in "kv"])
    assert not any(row.tobytes()[:32] in data for row in rows.reshape(-1, rows.shape[-1]))
    assert len(data) == HEADER_BYTES + (4 * (len(IDS) + 1) + 16) + rows.nbytes + 2 * 16


def flips(count, size, seed):
    rng = random.Random(seed)
    places = range(size) if count is None else sorted(rng.sample(range(size), count))
    return [(place, 1 << rng.randrange(8)) for place in places]


def check_flips(model, saved, tmp_path, count):
    path = tmp_path / "changed"
    data = saved[0].read_bytes()
    with load(model, tee_debug_root_key=ROOT_KEY) as engine:
        for place, bit in flips(count, len(data), seed=5):
            changed = bytearray(data)
            changed[place] ^= bit
            path.write_bytes(changed)
            engine.reset()
            with pytest.raises(PtmoError) as refused:
                engine.resume(path)
            assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)
            if place >= HEADER_BYTES:
                assert isinstance(refused.value, SecurityError)
            assert engine.session is None
            assert engine.dump_device_memory().pages == b""
        assert engine.resume(saved[0]).tokens == IDS


def test_a_changed_byte_is_refused_and_loads_nothing(model, saved, tmp_path):
    size = saved[0].stat().st_size
    check_flips(model, saved, tmp_path, count=size // 50 + HEADER_BYTES)


@pytest.mark.slow
def test_every_changed_byte_is_refused_and_loads_nothing(model, saved, tmp_path):
    check_flips(model, saved, tmp_path, count=None)


def test_every_changed_byte_of_the_header_is_refused(model, saved, tmp_path):
    path = tmp_path / "changed"
    data = saved[0].read_bytes()
    with load(model, tee_debug_root_key=ROOT_KEY) as engine:
        for place in range(HEADER_BYTES):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(PtmoError):
                engine.resume(path)
            assert engine.session is None or engine.session.tokens == []


@pytest.mark.parametrize("change", [-1, -17, -1000, 1, 4096], ids=str)
def test_a_file_cut_short_or_lengthened_is_refused(model, saved, tmp_path, change):
    data = saved[0].read_bytes()
    path = tmp_path / "session"
    path.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with load(model, tee_debug_root_key=ROOT_KEY) as engine:
        with pytest.raises(SecurityError, match=r"cut short or has bytes too many \(TRUNCATED"):
            engine.resume(path)
        assert engine.dump_device_memory().pages == b""
        assert engine.start_session().feed([1]).shape[0] == 1


def test_two_pages_that_changed_places_are_refused(model, tmp_path):
    path = tmp_path / "session"
    with load(model) as engine:
        session = engine.start_session()
        session.feed([*IDS[:32], *IDS[:32]])
        session.save(path)
        data = path.read_bytes()
        first = HEADER_BYTES + 4 * 65 + 16
        half = (len(data) - first) // 2
        pages = data[first : first + half], data[first + half :]
        path.write_bytes(data[:first] + pages[1] + pages[0])
        with pytest.raises(SecurityError, match="page 0 does not authenticate"):
            engine.resume(path)


def test_records_of_another_file_of_the_same_session_are_refused(model, tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    with load(model) as engine:
        session = engine.start_session()
        session.feed(IDS)
        for file in files:
            session.save(file)
        a, b = (file.read_bytes() for file in files)
        assert len(a) == len(b) and a[HEADER_BYTES:] != b[HEADER_BYTES:]
        files[0].write_bytes(a[:HEADER_BYTES] + b[HEADER_BYTES:])
        with pytest.raises(SecurityError, match="record 0"):
            engine.resume(files[0])


def test_another_tee_does_not_open_the_file(model, saved):
    with load(model) as engine:
        with pytest.raises(SecurityError, match="the file was changed, or another TEE saved it"):
            engine.resume(saved[0])
        assert engine.session is None
        assert engine.dump_device_memory().pages == b""


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"kv_dtype": "fp16"}, "saved with kv_dtype='int8', this engine has 'fp16'"),
        ({"rows_per_page": 16}, "saved with rows_per_page=32, this engine has 16"),
        ({"context_tokens": 40}, "has 41 tokens, the context holds 40"),
        ({"shield": "none"}, "shield 'none' has no TEE"),
    ],
    ids=str,
)
def test_an_engine_of_another_kind_refuses_and_keeps_its_session(model, saved, fields, message):
    root = {} if "shield" in fields else {"tee_debug_root_key": ROOT_KEY}
    with load(model, **fields, **root) as engine:
        session = engine.start_session()
        session.feed([1, 2])
        with pytest.raises(InputError, match=message):
            engine.resume(saved[0])
        assert engine.session is session and session.tokens == [1, 2]


def test_another_model_is_refused(saved, tmp_path):
    other = make_tiny_model(tmp_path, "Q4_1", seed=99).path
    with load(other, tee_debug_root_key=ROOT_KEY) as engine:
        with pytest.raises(InputError, match="saved with another model"):
            engine.resume(saved[0])


@pytest.mark.parametrize("content", [None, b"", b"PTMOKVS1", b"GGUF" + bytes(500)], ids=str)
def test_what_is_no_saved_session_is_named(model, tmp_path, content):
    path = tmp_path / "session"
    if content is not None:
        path.write_bytes(content)
    with load(model) as engine:
        with pytest.raises(InputError, match=f"^{path}: "):
            engine.resume(path)
        with pytest.raises(InputError, match=f"^{tmp_path}: not a saved session"):
            engine.resume(tmp_path)


def test_without_a_tee_nothing_is_saved(model, tmp_path):
    with load(model, shield="none") as engine:
        session = engine.start_session()
        session.feed(IDS)
        with pytest.raises(InputError, match="shield 'none' has no TEE"):
            session.save(tmp_path / "session")
        assert os.listdir(tmp_path) == []


def test_a_save_that_fails_leaves_the_old_file_and_no_other(model, tmp_path):
    path = tmp_path / "session"
    with load(model) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(path)
        before = path.read_bytes()
        tee = engine._tee.client
        real, tee.storage_key = tee.storage_key, lambda *_: tee.drop_epoch(10**6)
        with pytest.raises(EngineError, match="no storage key"):
            session.save(path)
        tee.storage_key = real
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["session"]
        with pytest.raises(InputError, match="No such file or directory"):
            session.save(tmp_path / "missing" / "session")
        with pytest.raises(InputError, match="a folder"):
            session.save(tmp_path)
        for use in (session.save, engine.resume):
            with pytest.raises(InputError, match=r"saved session 'a.x00b' is not a path"):
                use("a\0b")
        assert os.listdir(tmp_path) == ["session"]
        assert engine.resume(path).tokens == IDS  # and every key slot is free again


def test_a_dead_tee_saves_nothing(model, tmp_path):
    with load(model) as engine:
        session = engine.start_session()
        session.feed(IDS)
        engine._tee.client.close()
        with pytest.raises(EngineError, match="the TEE process is gone"):
            session.save(tmp_path / "session")
        assert session.closed
        assert os.listdir(tmp_path) == []


def test_saving_twenty_times_leaves_no_key_slot_taken(model, tmp_path):
    with load(model) as engine:
        session = engine.start_session()
        session.feed([1])
        for _ in range(20):
            session.save(tmp_path / "session")
            session = engine.resume(tmp_path / "session")
        others = engine._tee.arena.size // 256 - 1
        assert len({engine._tee.arena.take_slot() for _ in range(others)}) == others


def test_without_two_free_key_slots_nothing_is_saved_and_nothing_lost(model, tmp_path):
    path = tmp_path / "session"
    with load(model) as engine:
        session = engine.start_session()
        session.feed(IDS)
        others = [engine.open_session() for _ in range(MAX_SEALED_SESSIONS - 2)]
        with pytest.raises(CapacityError, match="slots are all in use: close a session first"):
            session.save(path)
        assert os.listdir(tmp_path) == [] and session.tokens == IDS
        last = engine.open_session()  # the slot that was free still is
        with pytest.raises(CapacityError, match="slots are all in use: close a session first"):
            session.save(path)
        last.close()
        others.pop().close()
        session.save(path)
        expected = one_by_one(session, MORE)
        with pytest.raises(CapacityError, match="slots are all in use: close a session first"):
            engine.resume(path)  # beside `session`: its own slot, and one of two
        assert engine.session is session
        others.pop().close()
        assert np.array_equal(one_by_one(engine.resume(path), MORE), expected)
