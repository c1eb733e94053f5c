"""The attack's promised numbers on the real model, with the control that makes them mean something.

A seal that merely broke the pages would pass "at chance" as well. So the same sealed bytes are
opened with the session's true key, derived from a debug root key, and must then be read entirely.
"""

import numpy as np
import pytest

from ptmo_secure.attacks.kv import (
    Loot,
    PublicModel,
    capture_prompts,
    default_attacks,
    dictionary_attacks,
    load_prompts,
    read_sessions,
    run,
    score,
)
from ptmo_secure.errors import InputError
from tests.attacks.synthetic import steal
from tests.sealed_dump import crypt_dump, seal_key_of_session

pytest.importorskip("ptmo_secure._native", reason="the native engine is not built")

from ptmo_secure.engine import registry
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.gguf_import import ModelSource

MODEL = "smollm2-135m"
ROOT_KEY = bytes(range(32))
WRONG_ROOT_KEY = bytes(range(1, 33))


@pytest.fixture(scope="module")
def source():
    try:
        path = registry.resolve(MODEL)
    except InputError as missing:
        pytest.skip(f"the model is not in the cache: {missing}")
    with ModelSource(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def public(source):
    return PublicModel(source)


def open_engine(cell):
    restore = {} if cell.restore is None else {"restore": cell.restore}
    return Engine.load(MODEL, shield=cell.shield, kv_dtype=cell.kv_dtype, threads=2, **restore)


@pytest.fixture(scope="module")
def rows(public):
    return run(open_engine, public)


def best(rows, shield, restore=None):
    (row,) = [
        r
        for r in rows
        if r.best and r.shield == shield and (restore is None or r.restore == restore)
    ]
    return row


def test_the_score_rests_on_enough_tokens_prompts_and_distinct_ids(rows):
    for row in rows:
        assert row.tokens >= 1200
        assert row.prompts >= 24
        assert row.distinct_ids >= 550
        assert row.vocab_size == 49152
        assert row.control_top1 < 0.01
        assert row.chance < 0.1


def test_an_unshielded_cache_is_read(rows):
    row = best(rows, "none")
    assert row.top1 >= 0.99
    assert row.top1_positions >= 0.99
    assert row.reconstructed == row.true_text


@pytest.mark.parametrize("restore", ["folded", "tee"])
def test_a_permuted_cache_is_read_by_sorting(rows, restore):
    mine = [r for r in rows if (r.shield, r.restore) == ("permute", restore)]
    by_name = {r.attack: r for r in mine}
    assert by_name["layer0_dictionary"].top1 < 0.01
    assert by_name["layer0_sorted"].top1 >= 0.99
    assert by_name["layer0_sorted"].top1_positions >= 0.99


@pytest.mark.parametrize("shield", ["seal", "permute+seal"])
def test_no_attack_reads_a_sealed_cache(rows, shield):
    mine = [r for r in rows if r.shield == shield]
    expected = [a.name for a in default_attacks() if a.applies_to(shield)]
    assert [r.attack for r in mine] == expected
    for row in mine:
        assert row.ci95[1] < 0.01, row.attack


class Recorder:
    """Drives an engine like a capture's target and opens each dump it hands out with both keys."""

    def __init__(self, engine):
        self.engine = engine
        self.opened = {ROOT_KEY: [], WRONG_ROOT_KEY: []}

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def dump_device_memory(self):
        dump = self.engine.dump_device_memory()
        handle = self.engine._session._family.tee_handle
        epoch = int(dump.headers()["epoch"][0])
        for root_key, opened in self.opened.items():
            key = seal_key_of_session(root_key, epoch, handle)
            opened.append(steal(crypt_dump(dump, lambda *_, key=key: key)))
        return dump


@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("shield", "attack"), [("seal", "layer0_dictionary"), ("permute+seal", "layer0_sorted")]
)
def test_the_sealed_bytes_open_with_their_key_and_stay_shut_with_another(
    source, public, shield, attack, kv_dtype
):
    attacks = {a.name: a for a in dictionary_attacks()}
    with Engine.load(
        MODEL, shield=shield, kv_dtype=kv_dtype, tee_debug_root_key=ROOT_KEY
    ) as engine:
        recorder = Recorder(engine)
        captured = capture_prompts(recorder, load_prompts().prompts[::2])

    def top1(memories):
        guesses = attacks[attack].run(Loot(tuple(memories)), public)
        return score(guesses, captured.truth, public.vocab_size, 0)

    opened = top1(recorder.opened[ROOT_KEY])
    assert opened.top1 >= 0.99
    assert opened.top1_positions >= 0.99
    assert top1(recorder.opened[WRONG_ROOT_KEY]).top1 <= 0.01
    assert top1(captured.stolen).ci95[1] < 0.01


def test_equal_prompts_in_two_sealed_sessions_share_no_ciphertext(source):
    with Engine.load(MODEL, shield="seal", threads=2) as engine:
        captured = capture_prompts(engine, ["The very same text."] * 3)
    codes = [read_sessions(memory)[0].codes for memory in captured.stolen]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(codes[left] == codes[right]) < 0.01  # independent bytes agree in 1 of 256
