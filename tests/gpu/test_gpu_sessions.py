"""Sessions whose pages stand on a device: saved, resumed elsewhere, forked, wiped with the TEE."""

import numpy as np
import pytest

from ptmo_secure.errors import SecurityError
from tests.engine.dead_tee import check_that_a_dead_tee_ends_the_run
from tests.engine.test_fail_closed import CASES
from tests.engine.test_saved_session import IDS, MORE, ROOT_KEY, SHIELDS, load, one_by_one
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu

DIRECTIONS = [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize(("saver", "reader"), DIRECTIONS)
@pytest.mark.parametrize("fields", SHIELDS, ids=str)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_a_session_moves_between_a_device_and_the_cpu(
    model, tmp_path, saver, reader, fields, kv_dtype
):
    fields = {**fields, "kv_dtype": kv_dtype, "tee_debug_root_key": ROOT_KEY}
    with load(model, device=saver, **fields) as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(tmp_path / "session")
        expected = one_by_one(session, MORE)
    with load(model, device=reader, **fields) as engine:
        resumed = engine.resume(tmp_path / "session")
        assert resumed.tokens == IDS
        got = one_by_one(resumed, MORE)
    if saver == reader:
        assert np.array_equal(got, expected)
    else:  # the same rows; sums in another order move codes by one here and there
        assert np.sqrt(np.mean((got - expected) ** 2)) < 0.02 * expected.std()


def test_a_changed_file_is_refused_and_leaves_the_conversation(model, tmp_path):
    path = tmp_path / "session"
    with load(model, device="cuda") as engine:
        session = engine.start_session()
        session.feed(IDS)
        session.save(path)
        raw = bytearray(path.read_bytes())
        raw[-40] ^= 1
        path.write_bytes(raw)
        with pytest.raises(SecurityError):
            engine.resume(path)
        assert engine.session is session and session.tokens == IDS


@pytest.mark.parametrize("fields", [{"shield": "none"}, *SHIELDS], ids=str)
def test_both_sides_of_a_fork_go_on_as_if_alone(model, fields):
    left, right = MORE, MORE[::-1]

    def alone(engine, ids):
        session = engine.start_session()
        session.feed(IDS)
        return one_by_one(session, ids)

    with load(model, device="cuda", **fields) as engine:
        expected = alone(engine, left), alone(engine, right)
        session = engine.start_session()
        session.feed(IDS)
        fork = session.fork()
        assert np.array_equal(one_by_one(fork, right), expected[1])
        assert np.array_equal(one_by_one(session, left), expected[0])


def test_rows_that_were_cut_off_are_gone_from_the_device(model):
    with load(model, device="cuda", shield="none", rows_per_page=16) as engine:
        session = engine.start_session()
        session.feed(IDS)
        long = engine.dump_device_memory()
        session.truncate(17)
        short = engine.dump_device_memory()
    layout = short.layout
    assert len(short.pages) == 2 * layout.page_bytes
    assert int(short.headers()["length"].sum()) == 17
    # The second page's first head: one row of K, then zeros where 15 more were.
    at = layout.page_bytes + layout.data_offset
    row, tile = layout.head_dim, layout.head_dim * layout.rows_per_page
    assert any(long.pages[at + row : at + tile])
    assert any(short.pages[at : at + row])
    assert not any(short.pages[at + row : at + tile])


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_a_dead_tee_ends_the_run_and_wipes_the_device(model, fields):
    with load(model, device="cuda", **{"context_tokens": 512, **fields}) as engine:
        check_that_a_dead_tee_ends_the_run(engine)


def test_a_session_that_is_over_leaves_no_page(model):
    with load(model, device="cuda", rows_per_page=16) as engine:
        engine.start_session().feed(IDS)
        dump = engine.dump_device_memory()
        assert len(dump.pages) == 3 * dump.layout.page_bytes
        engine.reset()
        assert engine.dump_device_memory().pages == b""
