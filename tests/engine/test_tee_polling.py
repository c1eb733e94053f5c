"""The TEE polls for its next call only where the engine leaves it a core."""

import pytest

from ptmo_secure.engine import tee_host
from ptmo_secure.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("fields", "cores", "poll_us"),
    [
        ({"shield": "permute", "restore": "tee", "threads": 1}, 2, 300),
        ({"shield": "permute", "restore": "tee", "threads": 2}, 2, 0),
        ({"shield": "permute+seal", "restore": "tee", "threads": 5}, 6, 300),
        ({"shield": "permute", "restore": "folded", "threads": 1}, 2, 0),
        ({"shield": "seal", "threads": 1}, 2, 0),
    ],
)
def test_it_polls_where_every_layer_calls_it_and_a_core_is_to_spare(
    monkeypatch, fields, cores, poll_us
):
    monkeypatch.setattr(tee_host.os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert tee_host._poll_us(EngineConfig(**fields)) == poll_us
