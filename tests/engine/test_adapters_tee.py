"""Adapters under a permutation: permuted once for each TEE, and never without one."""

import numpy as np
import pytest

from ptmo_secure.errors import EngineError
from tests.engine.dead_tee import kill_tee
from tests.engine.test_adapters import IDS, load, with_adapters
from tests.peft_files import some_adapter
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize("restore", ["folded", "tee"])
def test_adapters_are_permuted_anew_for_a_new_tee(model, restore):
    with with_adapters(model, 2, shield="permute+seal", restore=restore) as engine:
        names = ["a0", "a1"]
        before = engine.forward(IDS, names)
        crossings = engine.stats()["tee_crossings"]
        engine.forward(IDS, names)
        assert engine.stats()["tee_crossings"] - crossings < 20  # permuted once, not each time
        kill_tee(engine)
        assert np.array_equal(engine.forward(IDS, names), before)


def test_an_adapter_is_not_loaded_without_the_tee_that_permutes_it(model, monkeypatch):
    with load(model, shield="permute") as engine:
        monkeypatch.setattr(engine.sessions, "connect", lambda: None)
        engine._tee.client.close()
        with pytest.raises(EngineError, match="TEE"):
            engine.add_adapter("x", some_adapter(engine.model, 4))
        assert engine.adapters == {}
