import os
import random
import struct
import time

import pytest
from tee_helpers import ROLES, ROOT_KEY, SMALL, SMOL, permutations, row_permutation, seal_key

from tee_sim import keys
from tee_sim.client import TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.layout import KvLayout

WIDE = KvLayout(2, 4, 2, 128, 128, 128)  # value blocks larger than one translation table


def scatter_permuted(layout, epoch, layer, vectors):
    """Permute attention vectors by the definition: ``a_permuted[i] = a[perm[i]]`` per head."""
    heads = permutations(layout, epoch, layer)
    group, dim = layout.n_heads // layout.n_kv_heads, layout.head_dim
    permuted = []
    for row in vectors:
        for head in range(layout.n_heads):
            values = heads[head // group][1]
            permuted += [row[head * dim + source] for source in values]
    return permuted


@pytest.mark.parametrize("layout", [SMALL, SMOL, WIDE], ids=["small", "smollm2", "wide"])
@pytest.mark.parametrize("role", ROLES)
def test_weight_rows_are_gathered_by_the_derived_permutation(tee, layout, role):
    model = tee.open_model(layout)
    row_bytes = 4 if role == "freq" else 7
    order = row_permutation(layout, tee.model_epoch(model), 1, role)
    rows = os.urandom(len(order) * row_bytes)
    expected = b"".join(rows[r * row_bytes : (r + 1) * row_bytes] for r in order)
    assert tee.permute_weights(model, 1, role, rows, row_bytes) == expected
    assert expected != rows


def test_rows_larger_than_the_window_cross_in_chunks(tee):
    model = tee.open_model(SMALL)
    row_bytes = 150_000  # one head is 1.2 MB, the window 1 MiB
    order = row_permutation(SMALL, 1, 0, "q")
    rows = random.Random(1).randbytes(len(order) * row_bytes)
    before = tee.crossings
    permuted = tee.permute_weights(model, 0, "q", memoryview(rows), row_bytes)
    assert permuted == b"".join(rows[r * row_bytes : (r + 1) * row_bytes] for r in order)
    assert tee.crossings - before == SMALL.n_heads


@pytest.mark.parametrize("layout", [SMALL, SMOL, WIDE], ids=["small", "smollm2", "wide"])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_unpermute_restores_the_attention_vectors_bit_for_bit(tee, layout, n_tokens):
    model = tee.open_model(layout)
    layer = layout.n_layers - 1
    width = layout.n_heads * layout.head_dim
    words = [[random.getrandbits(32) for _ in range(width)] for _ in range(n_tokens)]  # NaNs too
    permuted = scatter_permuted(layout, tee.model_epoch(model), layer, words)
    shared = tee.register_memory(4 * n_tokens * width + 8)
    shared.buffer[-8:] = b"untouchd"
    struct.pack_into(f"<{len(permuted)}I", shared.buffer, 0, *permuted)
    tee.unpermute(model, layer, shared, n_tokens)
    restored = struct.unpack_from(f"<{len(permuted)}I", shared.buffer)
    assert list(restored) == [word for row in words for word in row]
    assert bytes(shared.buffer[-8:]) == b"untouchd"


def test_folding_v_and_o_gives_the_same_projection(tee):
    model = tee.open_model(SMALL)
    width = SMALL.n_heads * SMALL.head_dim
    attention = [random.randrange(1000) for _ in range(width)]
    w_o = [random.randrange(1000) for _ in range(width)]
    permuted = scatter_permuted(SMALL, 1, 0, [attention])
    folded = struct.unpack(
        f"<{width}I", tee.permute_weights(model, 0, "o", struct.pack(f"<{width}I", *w_o), 4)
    )
    plain = sum(a * w for a, w in zip(attention, w_o, strict=True))
    assert sum(a * w for a, w in zip(permuted, folded, strict=True)) == plain


def test_every_load_of_a_model_draws_a_new_epoch(tee):
    rows = bytes(range(32))
    first, second = tee.open_model(SMALL), tee.open_model(SMALL)
    assert tee.model_epoch(second) == tee.model_epoch(first) + 1 == tee.status()["epoch"]
    assert tee.permute_weights(first, 0, "q", rows, 1) != tee.permute_weights(
        second, 0, "q", rows, 1
    )


def test_a_process_without_a_given_root_draws_its_own():
    results = set()
    for _ in range(2):
        with TeeClient.launch() as client:
            assert client.status()["debug"] is False
            results.add(
                client.permute_weights(client.open_model(SMOL), 0, "v", bytes(range(192)), 1)
            )
    assert len(results) == 2


def test_the_seal_key_is_written_at_the_offset_and_nothing_beside_it(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    written = bytearray(arena.size)
    for offset in (0, 100, 4090, arena.size - 16):  # 4090: across a page boundary
        session, epoch = tee.new_epoch(arena_id, offset)
        written[offset : offset + 16] = seal_key(epoch, session)
    assert arena.map[:] == bytes(written)


@pytest.mark.parametrize("offset", [8192 - 15, 8192, 2**32, 2**64 - 8])
def test_a_key_does_not_fit_past_the_end_of_the_arena(tee, arena, offset):
    arena_id = tee.register_fd(arena.fd, arena.size)
    with pytest.raises(TeeError) as refused:
        tee.new_epoch(arena_id, offset)
    assert refused.value.code == ResultCode.BAD_PARAMETERS
    assert arena.map[:] == bytes(arena.size)
    assert tee.status()["used_bytes"] == 0
    assert tee.new_epoch(arena_id, 0)[1] == 2  # the refused one spent its number


def test_the_key_of_a_saved_session_is_written_at_the_offset_and_nothing_beside_it(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    written = bytearray(arena.size)
    for offset in (0, 100, 4090, arena.size - 32):
        digest, file_id = os.urandom(32), os.urandom(16)
        tee.storage_key(arena_id, offset, digest, file_id)
        written[offset : offset + 32] = keys.saved_session_key(ROOT_KEY, digest, file_id)
    assert arena.map[:] == bytes(written)


def test_one_root_key_gives_a_saved_session_its_key_again(arena):
    seen = []
    for root in (ROOT_KEY, ROOT_KEY, bytes(32)):
        with TeeClient.launch(debug_root_key=root) as client:
            client.open_model(SMALL)  # what was drawn before does not matter
            client.storage_key(client.register_fd(arena.fd, arena.size), 0, bytes(32), bytes(16))
        seen.append(arena.map[:32])
    assert seen[0] == seen[1] != seen[2]


def test_a_storage_key_does_not_fit_past_the_end_of_the_arena(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    for offset in (arena.size - 31, arena.size, 2**64 - 32):
        with pytest.raises(TeeError) as refused:
            tee.storage_key(arena_id, offset, bytes(32), bytes(16))
        assert refused.value.code == ResultCode.BAD_PARAMETERS
    assert arena.map[:] == bytes(arena.size)


@pytest.mark.parametrize("layout", [SMALL, SMOL, WIDE], ids=["small", "smollm2", "wide"])
@pytest.mark.parametrize("role", ["k", "v"])
def test_cached_rows_are_put_in_the_models_order_and_back(tee, layout, role):
    model = tee.open_model(layout)
    order = row_permutation(layout, tee.model_epoch(model), 1, role)
    row_bytes = 6
    rows = os.urandom(len(order) * row_bytes)
    permuted = b"".join(rows[r * row_bytes : (r + 1) * row_bytes] for r in order)
    shared = tee.register_memory(len(rows) + 20)
    shared.buffer[:10] = shared.buffer[-10:] = b"untouched!"
    before = tee.crossings
    shared.buffer[10:-10] = permuted
    tee.reorder_rows(model, 1, role, shared, 10, row_bytes, to="model")
    assert bytes(shared.buffer[10:-10]) == rows
    tee.reorder_rows(model, 1, role, shared, 10, row_bytes, to="pages")
    assert bytes(shared.buffer[10:-10]) == permuted
    assert bytes(shared.buffer[:10]) == bytes(shared.buffer[-10:]) == b"untouched!"
    assert tee.crossings - before == 2


def test_sessions_never_share_a_key_or_an_epoch_number(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    keys_seen, epochs = set(), set()
    for _ in range(50):
        _, epoch = tee.new_epoch(arena_id, 0)
        keys_seen.add(arena.map[:16])
        epochs.add(epoch)
    assert len(keys_seen) == len(epochs) == 50


def test_a_dropped_session_and_a_closed_model_are_gone(tee, arena):
    session, _ = tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
    tee.drop_epoch(session)
    model = tee.open_model(SMALL)
    tee.close_model(model)
    for call in (
        lambda: tee.drop_epoch(session),
        lambda: tee.close_model(model),
        lambda: tee.permute_weights(model, 0, "q", bytes(32), 1),
    ):
        with pytest.raises(TeeError) as refused:
            call()
        assert refused.value.code == ResultCode.ITEM_NOT_FOUND


@pytest.mark.parametrize(
    "change",
    [{"layer": 2}, {"layer": 2**40}, {"role": "w"}, {"row_bytes": 0}, {"rows": bytes(33)}],
    ids=str,
)
def test_bad_weight_arguments_are_refused(tee, change):
    call = {"layer": 0, "role": "q", "rows": bytes(32), "row_bytes": 1, **change}
    model = tee.open_model(SMALL)
    with pytest.raises(TeeError) as refused:
        tee.permute_weights(model, **call)
    assert refused.value.code == ResultCode.BAD_PARAMETERS
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layer,n_tokens", [(2, 1), (0, 0), (0, -1), (0, 2), (-1, 1)])
def test_bad_unpermute_arguments_are_refused(tee, layer, n_tokens):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(SMALL.n_heads * SMALL.head_dim * 4)
    with pytest.raises(TeeError) as refused:
        tee.unpermute(model, layer, shared, n_tokens)
    assert refused.value.code == ResultCode.BAD_PARAMETERS
    tee.unpermute(model, 0, shared, 1)


def test_status_reports_what_happened(tee, arena):
    model = tee.open_model(SMALL)
    tee.permute_weights(model, 0, "q", bytes(32), 1)
    tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
    status = tee.status()
    assert status["role"] == "core" and status["pid"] == tee.pid
    assert status["debug"] is True
    assert status["budget_bytes"] == 32 << 20 and status["used_bytes"] > 0
    assert status["epoch"] == 2
    assert status["crossings"] == tee.crossings == 3
    assert set(status["hardening"]) >= {"dumpable_off", "no_core_dumps", "no_new_privs"}


def test_the_weights_window_is_wiped_after_the_reply(tee):
    model = tee.open_model(SMALL)
    tee.permute_weights(model, 0, "q", b"\xa5" * 64, 2)
    assert not any(tee._window.buffer)


def test_the_weights_window_is_wiped_after_a_refusal(tee):
    model = tee.open_model(SMALL)
    with pytest.raises(TeeError):
        tee.permute_weights(model, 7, "q", b"\xa5" * 64, 2)
    assert not any(tee._window.buffer)


def test_a_crossing_is_cheap_enough_to_make_at_every_layer(tee):
    model = tee.open_model(SMOL)
    shared = tee.register_memory(576 * 4)
    times = []
    for _ in range(400):
        start = time.perf_counter()
        tee.unpermute(model, 0, shared, 1)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 4] < 500e-6  # measured: 31 us; room for a busy machine


def test_a_debug_key_needs_32_bytes_and_the_core_role():
    for arguments in ({"debug_root_key": bytes(31)}, {"role": "guard", "debug_root_key": ROOT_KEY}):
        with pytest.raises(ValueError, match="debug_root_key"):
            TeeClient.launch(**arguments)
    with pytest.raises(ValueError, match="role"):
        TeeClient.launch("admin")
