"""Keys that rotate under pages on a device: the bits of an engine that never rotates."""

import numpy as np
import pytest

from ptmo_secure.errors import CapacityError
from tests.engine.test_adapters import with_adapters
from tests.engine.test_rotation import load
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 250, 45)]
MORE = [3, 99, 18]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def logits(engine, rotate):
    """Feed in parts, step by step, and on a fork, with a chance to rotate in between."""
    names = ["a0"] if "a0" in engine.adapters else []
    session = engine.open_session(names)
    out = [session.feed(IDS, all_logits=True)]
    rotate(session)
    out += [session.feed([i]) for i in MORE]  # a step that was recorded serves again
    rotate(session)
    out += [session.feed([i]) for i in MORE]
    fork = session.fork()
    rotate(fork)
    for each in (session, fork):
        out.append(each.feed(MORE, all_logits=True))
        each.close()
    return np.concatenate(out)


@pytest.mark.parametrize(
    ("shield", "kv_dtype"),
    [
        *[(shield, "int8") for shield in ("seal", "permute", "permute+seal")],
        *[("permute+seal", "int4"), ("seal", "fp16")],  # of fp16 `permute` reorders sums
    ],
)
def test_a_rotation_changes_no_bit_of_a_devices_logits(model, shield, kv_dtype):
    fields = {"device": "cuda", "kv_dtype": kv_dtype, "shield": shield}
    with with_adapters(model, 1, **fields) as engine:
        expected = logits(engine, lambda _: None)
        assert np.array_equal(logits(engine, lambda _: engine.rotate()), expected)
        if engine.config.sealed:
            assert np.array_equal(logits(engine, lambda session: session.rotate()), expected)
            assert engine.stats()["seal_keys_rotated"] == 6


def test_a_device_rotates_by_policy(model):
    with load(model, "seal", device="cuda") as engine:
        expected = logits(engine, lambda _: None)
    with load(model, "seal", device="cuda", rotate_after_tokens=5) as engine:
        assert np.array_equal(logits(engine, lambda _: None), expected)
        assert engine.stats()["seal_keys_rotated"] >= 3
        session = engine.open_session()
        session.feed(IDS)
        before = engine.dump_device_memory()
        while True:
            try:
                engine._tee.arena.take_slot()
            except RuntimeError:
                break
        with pytest.raises(CapacityError):
            session.feed([1])
        assert engine.dump_device_memory().pages == before.pages
