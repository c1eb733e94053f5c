"""What rotations leave in the pages, opened with keys that the test derives itself."""

import itertools

import numpy as np
import pytest

from ptmo_secure.engine.dump import HEADER
from tee_sim import keys
from tee_sim.layout import KvLayout
from tee_sim.permutation import expand_pairs, layer_permutations
from tests.engine.test_rotation import load
from tests.sealed_dump import crypt_dump, seal_key_of_session
from tests.tiny_models import make_tiny_model

ROOT_KEY = bytes(range(32))
IDS = [int(i) for i in np.random.default_rng(5).integers(0, 250, 70)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def rows_of(dump):
    """Every row of every layer: {(layer, kind): [T, n_kv_heads, head_dim]}."""
    layers = range(dump.layout.n_layers)
    return {(i, kind): dump.rows(i, kind) for i in layers for kind in "kv"}


def opened(dump, key):
    return rows_of(crypt_dump(dump, lambda *_: key, range(dump.layout.n_layers)))


def same(rows, expected):
    return all(np.array_equal(rows[place], expected[place]) for place in expected)


def alike(rows, expected):
    """The share of elements that are equal: noise agrees here and there."""
    with np.errstate(all="ignore"):
        return np.mean([np.mean(rows[place] == expected[place]) for place in expected])


def unchanged_records(before, after):
    """Records (a row's K, V or scales of a head) whose bytes two dumps share, in their place."""
    layout, found = before.layout, 0
    size, rows = layout.page_bytes, layout.rows_per_page
    row_bytes = layout.tile_bytes // rows
    for page, header in enumerate(before.headers()):
        for head in range(layout.n_layers * layout.n_kv_heads):
            at = page * size + layout.data_offset + head * layout.head_bytes
            for offset, width in ((0, row_bytes), (layout.tile_bytes, row_bytes)):
                for row in range(int(header["length"])):
                    place = slice(at + offset + row * width, at + offset + (row + 1) * width)
                    found += before.pages[place] == after.pages[place]
            scales = at + 2 * layout.tile_bytes
            for row in range(int(header["length"])):
                place = slice(scales + 8 * row, scales + 8 * row + 8)
                found += before.pages[place] == after.pages[place]
    return found


@pytest.fixture(scope="module")
def plain(model):
    """The rows of IDS, then of one token more, in the clear."""
    with load(model, "none") as engine:
        session = engine.open_session()
        session.feed(IDS)
        session.feed([9])
        return rows_of(engine.dump_device_memory())


def without_last(rows):
    return {place: values[:-1] for place, values in rows.items()}


def test_the_next_key_opens_every_page_and_the_old_one_none(model, plain):
    with load(model, "seal", tee_debug_root_key=ROOT_KEY) as engine:
        session = engine.open_session()
        session.feed(IDS)
        handle = session._family.tee_handle
        dumps, epochs = [], []
        for _ in range(3):
            dumps.append(engine.dump_device_memory())
            epochs.append({int(epoch) for epoch in dumps[-1].headers()["epoch"]})
            session.rotate()
        session.feed([9])
        last = engine.dump_device_memory()
    assert epochs == [{1}, {2}, {3}]
    expected = without_last(plain)
    for under, dump in enumerate(dumps, start=1):
        for epoch in (1, 2, 3, 4):
            rows = opened(dump, seal_key_of_session(ROOT_KEY, epoch, handle))
            if epoch == under:
                assert same(rows, expected)
            else:
                assert alike(rows, expected) < 0.02
    assert same(opened(last, seal_key_of_session(ROOT_KEY, 4, handle)), plain)
    for before, after in itertools.pairwise(dumps):
        assert unchanged_records(before, after) == 0
    heads = dumps[0].layout.n_layers * dumps[0].layout.n_kv_heads
    assert unchanged_records(dumps[0], dumps[0]) == len(IDS) * 3 * heads


def test_numbers_grow_on_through_every_rotation(model):
    with load(model, "permute+seal", tee_debug_root_key=ROOT_KEY) as engine:
        session = engine.open_session()
        session.feed(IDS)
        seen = []

        def take_numbers():
            dump = engine.dump_device_memory()
            lengths = dump.headers()["length"]
            pages = zip(dump.sequence_numbers(), lengths, strict=True)
            numbers = sorted(int(n) for page, length in pages for n in page[:length])
            assert len(numbers) == len(session.tokens)
            seen.append(numbers)

        take_numbers()
        for _ in range(2):
            session.rotate()
            take_numbers()
            engine.rotate()  # under another key, and then in another order
            take_numbers()
        for earlier, later in itertools.pairwise(seen):
            assert earlier[-1] < later[0]
        assert seen[-1][0] == len(IDS) * (1 + 2 + 4 - 1)  # every row, every time


@pytest.mark.parametrize("shield", ["permute", "permute+seal"])
def test_rows_are_in_the_order_of_the_next_epoch(model, plain, shield):
    with load(model, shield, tee_debug_root_key=ROOT_KEY) as engine:
        client, shape = engine._tee.client, engine.model
        layout = KvLayout(
            shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.head_dim,
            min(32, shape.head_dim),
        )  # fmt: skip
        first = client.model_epoch(engine._tee._model)
        session = engine.open_session()
        session.feed(IDS)
        engine.rotate()
        second = client.model_epoch(engine._tee._model)
        dump = engine.dump_device_memory()
        rows = rows_of(dump)
        if engine.config.sealed:
            epoch = int(dump.headers()["epoch"][0])
            rows = opened(dump, seal_key_of_session(ROOT_KEY, epoch, session._family.tee_handle))
    assert second > first

    def in_order_of(epoch):
        out = {}
        for layer in range(layout.n_layers):
            heads = layer_permutations(keys.epoch_key(ROOT_KEY, epoch), layout, layer)
            for kind in "kv":
                orders = [expand_pairs(h.pairs) if kind == "k" else list(h.values) for h in heads]
                parts = [plain[layer, kind][:-1, head, order] for head, order in enumerate(orders)]
                out[layer, kind] = np.stack(parts, axis=1)
        return out

    assert same(rows, in_order_of(second))
    assert not same(rows, in_order_of(first))
    assert not same(rows, without_last(plain))


def test_what_forks_share_stays_shared_and_free_pages_stay_zero(model):
    with load(model, "seal") as engine:
        session = engine.open_session()
        session.feed(IDS)
        fork = session.fork()
        fork.truncate(40)
        shared = session._native.page_ids, fork._native.page_ids
        engine.rotate()
        assert (session._native.page_ids, fork._native.page_ids) == shared
        fork.truncate(33)
        session.truncate(50)
        session.rotate()
        dump = engine.dump_device_memory()
        assert [int(length) for length in dump.headers()["length"]] == [32, 18]
        at = HEADER.itemsize + 8 * 18
        page = dump.pages[dump.layout.page_bytes :]
        assert not any(page[at : dump.layout.data_offset])
        row_bytes = dump.layout.tile_bytes // 32
        first = dump.layout.data_offset
        assert any(page[first + 17 * row_bytes : first + 18 * row_bytes])
        assert not any(page[first + 18 * row_bytes : first + dump.layout.tile_bytes])
