"""The dictionary attacks read what they should read, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.attacks.kv import (
    Attacker,
    DictionaryAttack,
    KeystreamReuseAttack,
    KnownSession,
    Loot,
    PublicModel,
    View,
    dictionary_attacks,
    read_sessions,
)
from ptmo_secure.attacks.kv.attacks import HeadRange, plausible_values
from ptmo_secure.attacks.kv.search import nearest
from ptmo_secure.engine.tensors import FloatTensor, Int4Tensor, Int8Tensor
from ptmo_secure.errors import InputError
from tests.attacks.synthetic import (
    HEAD_DIM,
    N_KV,
    VOCAB,
    Source,
    make_dump,
    permute_values,
    steal,
)
from tests.sealed_dump import crypt_dump

SOURCE = Source()
MODEL = PublicModel(SOURCE)
IDS = np.random.default_rng(1).permutation(VOCAB)[:300]
PLAIN = DictionaryAttack("plain")
SORTED = DictionaryAttack("sorted", sort=True)
KV_DTYPES = ("int8", "int4", "fp16", "fp32")


def rate(attack, dump, ids=IDS, known=(), model=MODEL):
    (guesses,) = attack.run(Loot((steal(dump),), known), model)
    return float(np.mean(guesses == ids))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_every_view_but_scales_alone_reads_every_token_of_plain_pages(kv_dtype):
    dump = make_dump(SOURCE.values(IDS), kv_dtype)
    for attack in dictionary_attacks():
        expected = 0.9 if attack.name == "layer0_scales" else 1.0
        assert rate(attack, dump) >= expected, attack.name


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_permuted_rows_defeat_the_plain_dictionary_and_not_the_sorted_one(kv_dtype):
    dump = make_dump(permute_values(SOURCE.values(IDS)), kv_dtype)
    assert rate(PLAIN, dump) < 0.05
    assert rate(SORTED, dump) == 1.0


def test_a_fresh_permutation_for_every_row_is_sorted_away_too():
    values = SOURCE.values(IDS)
    fresh = np.concatenate([permute_values(values[i : i + 1], seed=i) for i in range(len(values))])
    assert rate(SORTED, make_dump(fresh, "int8")) == 1.0


def test_codes_are_read_when_the_scales_are_noise_and_scales_when_the_codes_are():
    dump = make_dump(SOURCE.values(IDS), "int8")
    lay = dump.layout
    pages = np.frombuffer(dump.pages, np.uint8).reshape(-1, lay.page_bytes)
    noise = np.random.default_rng(4).integers(0, 256, pages.shape, dtype=np.uint8)
    heads = [lay.data_offset + head * lay.head_bytes for head in range(N_KV)]
    no_scales, no_codes = pages.copy(), pages.copy()
    for start in heads:
        scales = slice(start + 2 * lay.tile_bytes, start + lay.head_bytes)
        codes = slice(start, start + 2 * lay.tile_bytes)
        no_scales[:, scales] = noise[:, scales]
        no_codes[:, codes] = noise[:, codes]
    by_codes = DictionaryAttack("codes", View.CODES)
    by_scales = DictionaryAttack("scales", View.SCALES)
    without_scales = type(dump)(no_scales.tobytes(), lay)
    without_codes = type(dump)(no_codes.tobytes(), lay)
    assert rate(by_codes, without_scales) == 1.0
    assert rate(by_scales, without_codes) >= 0.9
    assert rate(by_codes, without_codes) < 0.05
    assert rate(by_scales, without_scales) < 0.05


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("attack", dictionary_attacks(), ids=lambda a: a.name)
def test_random_bytes_in_place_of_rows_give_chance(attack, kv_dtype):
    dump = make_dump(SOURCE.values(IDS), kv_dtype)
    lay = dump.layout
    pages = np.frombuffer(dump.pages, np.uint8).reshape(-1, lay.page_bytes).copy()
    rng = np.random.default_rng(8)
    body = pages[:, lay.data_offset :]
    body[:] = rng.integers(0, 256, body.shape, dtype=np.uint8)
    assert rate(attack, type(dump)(pages.tobytes(), lay)) <= 0.03  # 300 ids, 1/640 each


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_rows_of_nothing_but_nan_bits_are_guessed_without_a_warning(kv_dtype, recwarn):
    dump = make_dump(SOURCE.values(IDS[:20]), kv_dtype)
    lay = dump.layout
    pages = np.frombuffer(dump.pages, np.uint8).reshape(-1, lay.page_bytes).copy()
    pages[:, lay.data_offset :] = 0xFF  # NaN as float16 and float32
    broken = steal(type(dump)(pages.tobytes(), lay))
    for attack in dictionary_attacks():
        (guesses,) = attack.run(Loot((broken,)), MODEL)
        assert guesses.shape == (20,)
        assert set(guesses.tolist()) <= set(range(VOCAB))
    assert not recwarn.list


def test_one_broken_row_does_not_disturb_the_others():
    values = SOURCE.values(IDS)
    values[7] = np.inf
    values[9, 0] = np.nan
    (guesses,) = SORTED.run(Loot((steal(make_dump(values, "fp32")),)), MODEL)
    hits = guesses == IDS
    assert hits[[i for i in range(len(IDS)) if i not in (7, 9)]].all()


def test_plaintext_rows_pass_the_plausibility_check_untouched():
    (rows,) = read_sessions(steal(make_dump(SOURCE.values(IDS), "int8")))
    decoded = rows.codes.astype(np.float64) * rows.scales[:, :, None]
    lengths = HeadRange.of(np.linalg.norm(MODEL.value_rows, axis=2))
    np.testing.assert_array_equal(plausible_values(rows, lengths), decoded.astype(np.float32))


def test_tokens_of_equal_embedding_are_all_reported_as_the_lowest_id():
    embed = SOURCE.embed.copy()
    embed[[50, 400, 401]] = embed[20]
    source = Source(embed=embed)
    model = PublicModel(source)
    ids = np.array([20, 50, 400, 401, 402])
    (guesses,) = PLAIN.run(Loot((steal(make_dump(source.values(ids), "fp32")),)), model)
    assert guesses.tolist() == [20, 20, 20, 20, 402]
    assert len(model.token_ids) == VOCAB - 3


def test_several_sessions_and_dumps_are_guessed_in_order():
    first, second = IDS[:40], IDS[40:50]
    dump = make_dump(SOURCE.values(first), "fp16", session=2)
    both = type(dump)(
        dump.pages + make_dump(SOURCE.values(second), "fp16", session=1).pages, dump.layout
    )
    third = make_dump(SOURCE.values(IDS[50:53]), "fp16")
    guesses = PLAIN.run(Loot((steal(both), steal(third))), MODEL)
    assert [g.tolist() for g in guesses] == [second.tolist(), first.tolist(), IDS[50:53].tolist()]


def test_nothing_stolen_gives_no_guess():
    empty = steal(make_dump(SOURCE.values(IDS), "fp32"))
    empty = type(empty)(b"", empty.layout)
    assert PLAIN.run(Loot((empty,)), MODEL) == []


def test_a_dump_of_another_model_is_refused():
    class Other(Source):
        def __init__(self):
            super().__init__()
            self.config = type(self.config)(head_dim=HEAD_DIM // 2, n_kv_heads=2 * N_KV)

    dump = steal(make_dump(SOURCE.values(IDS), "fp32"))
    with pytest.raises(InputError, match=r"2 KV heads of 32 elements.*4 of 16"):
        PLAIN.run(Loot((dump,)), PublicModel(Other()))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_reused_keystream_is_stripped_and_a_key_per_session_stops_it(kv_dtype):
    own_ids = np.random.default_rng(6).integers(0, VOCAB, 320)
    attack = KeystreamReuseAttack()

    def reuse(victim_key, own_key, first_seq=1):
        victim = crypt_dump(make_dump(SOURCE.values(IDS), kv_dtype), lambda *_: victim_key)
        own = make_dump(SOURCE.values(own_ids), kv_dtype, session=2, first_seq=first_seq)
        own = crypt_dump(own, lambda *_: own_key)
        return rate(attack, victim, known=(KnownSession(steal(own), own_ids),))

    assert reuse(b"k" * 16, b"k" * 16) >= 0.99
    assert reuse(b"k" * 16, b"x" * 16) <= 0.03
    assert reuse(b"k" * 16, b"k" * 16, first_seq=1000) <= 0.03  # numbers that never repeat


def test_keystream_reuse_asks_for_a_known_text_that_matches_its_pages():
    victim = steal(make_dump(SOURCE.values(IDS), "int8"))
    with pytest.raises(InputError, match="needs a session of known text"):
        KeystreamReuseAttack().run(Loot((victim,)), MODEL)
    with pytest.raises(InputError, match=r"299 tokens.*\[300\] rows"):
        KeystreamReuseAttack().run(Loot((victim,), (KnownSession(victim, IDS[:-1]),)), MODEL)


def test_attacks_name_the_weakest_attacker_that_can_run_them():
    assert {attack.attacker for attack in dictionary_attacks()} == {Attacker.A0}
    assert KeystreamReuseAttack().attacker is Attacker.A4
    assert [a.value for a in Attacker if a.has_known_text] == ["A3", "A4"]
    assert len({a.sees for a in Attacker}) == 5


def test_the_dictionary_row_of_a_token_is_its_value_row():
    table, ids = MODEL.value_rows, MODEL.token_ids
    np.testing.assert_allclose(table, SOURCE.values(ids), atol=2e-6)
    np.testing.assert_allclose(MODEL.rows_of(IDS), SOURCE.values(IDS), atol=2e-6)


def test_quantised_weights_give_the_dictionary_of_their_dequantised_values():
    rng = np.random.default_rng(2)
    codes4 = rng.integers(0, 256, (64, 32), dtype=np.uint8)
    scales4 = rng.uniform(0.01, 0.02, (64, 2)).astype(np.float16)
    embed = Int8Tensor(
        rng.integers(-127, 128, (VOCAB, 64)).astype(np.int8),
        rng.uniform(0.001, 0.01, (VOCAB, 2)).astype(np.float16),
    )
    v = Int4Tensor(codes4, scales4, (scales4 * np.float16(-8)), 32)

    class Quantised:
        def __init__(self, embed, v):
            self.config = type(SOURCE.config)(d_model=64)
            self.table = {
                "embed": embed,
                "layers.0.attn_norm": FloatTensor(np.ones(64, np.float32)),
                "layers.0.v": v,
            }

        def tensor_names(self):
            return list(self.table)

        def tensor(self, name):
            return self.table[name]

    plain = Quantised(FloatTensor(embed.dequantize()), FloatTensor(v.dequantize()))
    np.testing.assert_array_equal(
        PublicModel(Quantised(embed, v)).value_rows, PublicModel(plain).value_rows
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), n_table=st.integers(1, 60), offset=st.sampled_from([0.0, 1e3])
)
def test_nearest_agrees_with_a_float64_search_across_chunks(seed, n_table, offset):
    rng = np.random.default_rng(seed)
    table = (rng.standard_normal((n_table, 2, 3)) + offset).astype(np.float32)
    queries = (rng.standard_normal((17, 6)) + offset).astype(np.float32)
    gaps = queries[:, None, :].astype(np.float64) - table.reshape(n_table, 6)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("TABLE_CHUNK", 7), ("QUERY_CHUNK", 5), ("RERANK_CHUNK", 4)):
            patch.setattr(f"ptmo_secure.attacks.kv.search.{name}", size)
        found = nearest(queries, table, lambda rows: rows.reshape(len(rows), -1))
    distances = (gaps**2).sum(axis=2)
    chosen = distances[np.arange(17), found]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4)
