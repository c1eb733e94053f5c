"""Limits that Python and the native module both state are the same numbers."""

import pytest

from ptmo_secure import _native
from ptmo_secure.config import MAX_ADAPTERS
from ptmo_secure.engine import native_setup, tee_link
from ptmo_secure.engine.config import MAX_SEALED_SESSIONS, EngineConfig
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.low_rank import MAX_RANK
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Makes a native adapter of one part of a given rank."""
    path = make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path
    config = EngineConfig(threads=1)
    with ModelSource(path) as source:
        shape = source.config
    layout = native_setup.page_layout(config, shape)
    pages = native_setup.page_arena(config, layout, context_tokens=64)
    native = native_setup.decoder(config, shape, layout, pages, context_tokens=64).config
    return lambda rank: _native.Adapter(native, [(0, _native.Linear.q, rank, True)])


def test_the_greatest_rank_is_the_native_modules(adapter):
    assert adapter(MAX_RANK).bytes > 0
    with pytest.raises(ValueError, match=f"rank={MAX_RANK + 1} "):
        adapter(MAX_RANK + 1)


def test_as_many_adapters_stack_as_in_the_native_module(adapter):
    one = adapter(1)
    _native.AdapterSet([one] * MAX_ADAPTERS)
    with pytest.raises(ValueError, match=f"{MAX_ADAPTERS + 1} adapters, more than"):
        _native.AdapterSet([one] * (MAX_ADAPTERS + 1))


def test_the_tee_links_arena_has_one_native_key_slot_a_session():
    arena = _native.SecretArena(tee_link._ARENA_BYTES)
    slots = [arena.take_slot() for _ in range(MAX_SEALED_SESSIONS)]
    # Their places, not that they run out: memory comes in pages, which may hold more of them.
    assert slots == list(range(0, tee_link._ARENA_BYTES, slots[1]))
