import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_helpers import ROOT_KEY, SMALL, SMOL, row_permutation

from tee_sim import keys
from tee_sim.layout import KvLayout
from tee_sim.permutation import (
    PrfStream,
    blocked_shuffle,
    expand_pairs,
    invert,
    layer_permutations,
    shuffle,
)
from tee_sim.secret_memory import SecretMemory
from tee_sim.ta.kv_model import LoadedModel

SECRETS = SecretMemory()
prf_keys = st.binary(min_size=32, max_size=32)


@st.composite
def layouts(draw):
    n_kv = draw(st.integers(1, 4))
    block = draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
    dim = block * draw(st.integers(1, max(1, 256 // block)).filter(lambda n: n * block % 2 == 0))
    return KvLayout(draw(st.integers(1, 3)), n_kv * draw(st.integers(1, 3)), n_kv, dim, dim, block)


@given(prf_keys, st.integers(1, 300))
def test_a_shuffle_is_a_bijection(key, n):
    assert sorted(shuffle(PrfStream(key), n)) == list(range(n))


@given(prf_keys, st.integers(1, 20), st.integers(1, 12))
def test_a_blocked_shuffle_moves_elements_only_inside_their_block(key, block, n_blocks):
    perm = blocked_shuffle(PrfStream(key), block * n_blocks, block)
    assert sorted(perm) == list(range(block * n_blocks))
    assert all(source // block == i // block for i, source in enumerate(perm))


@given(prf_keys, st.integers(1, 128))
def test_rotary_pairs_move_together(key, half):
    perm = expand_pairs(shuffle(PrfStream(key), half))
    assert sorted(perm) == list(range(2 * half))
    assert all(perm[i + half] == perm[i] + half for i in range(half))


@given(prf_keys, st.integers(1, 256))
def test_inverting_twice_and_composing_give_the_identity(key, n):
    perm = shuffle(PrfStream(key), n)
    inverse = invert(perm)
    assert invert(inverse) == perm
    assert [perm[i] for i in inverse] == list(range(n))


def test_every_permutation_of_four_is_equally_likely():
    counts = collections.Counter(
        tuple(shuffle(PrfStream(i.to_bytes(32, "big")), 4)) for i in range(12_000)
    )
    assert set(counts) == set(itertools.permutations(range(4)))
    expected = 12_000 / 24
    chi_squared = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_squared < 52.6  # 23 degrees of freedom, p = 4e-4; deterministic keys


def test_the_stream_rejects_words_that_would_bias_it():
    stream = PrfStream(bytes(32))
    stream._words = [5, 0xFFFFFFFF]  # popped from the end: the top word is above 3 * floor(2^32/3)
    assert stream.below(3) == 2
    assert stream._words == []


@pytest.mark.parametrize("role", ["q", "o"])
def test_query_heads_of_one_group_share_their_kv_heads_key(role):
    perm = row_permutation(SMOL, 1, 0, role)
    dim = SMOL.head_dim
    local = [tuple(r - h * dim for r in perm[h * dim : (h + 1) * dim]) for h in range(9)]
    for group in range(3):
        assert len(set(local[3 * group : 3 * group + 3])) == 1
    assert len(set(local)) == 3


def test_layers_heads_epochs_and_kinds_are_permuted_independently():
    seen = set()
    for epoch, layer in itertools.product((1, 2), (0, 1)):
        heads = layer_permutations(keys.epoch_key(ROOT_KEY, epoch), SMOL, layer)
        seen.update(head.pairs for head in heads)
        seen.update(head.values[:32] for head in heads)
    assert len(seen) == 2 * 2 * 3 * 2


@settings(max_examples=40, deadline=None)
@given(layouts(), prf_keys, st.integers(1, 3), st.data())
def test_unpermute_undoes_the_gather_of_every_layout(layout, key, n_tokens, data):
    model = LoadedModel(layout, SECRETS.keep(bytearray(key)))
    layer = data.draw(st.integers(0, layout.n_layers - 1))
    heads = layer_permutations(key, layout, layer)
    dim, width = layout.head_dim, layout.n_heads * layout.head_dim
    original = [i.to_bytes(4, "little") for i in range(n_tokens * width)]
    permuted = bytearray()
    for token in range(n_tokens):
        for head in range(layout.n_heads):
            base = token * width + head * dim
            values = heads[head // layout.group].values
            permuted += b"".join(original[base + source] for source in values)
    assert model.unpermute(layer, permuted) == b"".join(original)
    model.close()


@settings(max_examples=30, deadline=None)
@given(prf_keys, st.integers(1, 9), st.sampled_from(["v", "o", "k", "q", "freq"]))
def test_gathering_rows_moves_whole_rows_and_loses_none(key, row_bytes, role):
    from tee_sim.protocol import role_code

    model = LoadedModel(SMALL, SECRETS.keep(bytearray(key)))
    n_heads, head_rows = model.role_shape(role_code(role))
    source = bytearray(i % 251 for i in range(n_heads * head_rows * row_bytes))
    gathered = model.gather_rows(1, role_code(role), 0, n_heads, source, row_bytes)

    def rows(data):
        return [bytes(data[at : at + row_bytes]) for at in range(0, len(data), row_bytes)]

    assert sorted(rows(gathered)) == sorted(rows(source))
    model.close()


@pytest.mark.parametrize(
    "fields",
    [
        (0, 4, 2, 8, 8, 4),
        (513, 4, 2, 8, 8, 4),
        (2, 5, 2, 8, 8, 4),
        (2, 2, 4, 8, 8, 4),
        (2, 4, 0, 8, 8, 4),
        (2, 2048, 2, 8, 8, 4),
        (2, 4, 2, 7, 7, 7),
        (2, 4, 2, 258, 258, 2),
        (2, 4, 2, 8, 4, 4),
        (2, 4, 2, 8, 8, 3),
        (2, 4, 2, 8, 8, 0),
        (2, 4, 2, 8, 8, 16),
    ],
)
def test_an_impossible_layout_is_refused(fields):
    with pytest.raises(ValueError, match="="):
        KvLayout(*fields)
