"""Epochs that take the place of others: a session's next key, a model's next permutations."""

import os

import pytest
from tee_helpers import ROLES, ROOT_KEY, SMALL, SMOL, permutations, row_permutation, seal_key

from tee_sim import keys
from tee_sim.client import TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.layout import KvLayout
from tee_sim.permutation import invert
from tee_sim.protocol import TA_ADMIN, AdminCommand, Kind, KvCommand
from tee_sim.secret_memory import SecretMemory
from tee_sim.ta.kv_model import LoadedModel

WIDE = KvLayout(2, 4, 2, 128, 128, 128)


def refusal(call, *arguments, **fields):
    with pytest.raises(TeeError) as refused:
        call(*arguments, **fields)
    return refused.value.code


def gathered(rows, order, row_bytes):
    return b"".join(rows[r * row_bytes : (r + 1) * row_bytes] for r in order)


# ------------------------------------------------------------------ seal keys


def test_a_session_keeps_its_handle_and_gets_the_key_of_the_next_epoch(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    session, first = tee.new_epoch(arena_id, 0)
    other, _ = tee.new_epoch(arena_id, 16)
    used = tee.status()["used_bytes"]
    before = tee.crossings
    same, second = tee.new_epoch(arena_id, 256, session)
    assert tee.crossings - before == 1
    assert (same, second) == (session, first + 2) and other != session
    assert tee.status()["used_bytes"] == used
    written = arena.map[:16], arena.map[256:272]
    assert written == (seal_key(first, session), seal_key(second, session))
    assert written[0] != written[1]
    tee.drop_epoch(session)
    assert refusal(tee.new_epoch, arena_id, 0, session) == ResultCode.ITEM_NOT_FOUND
    assert tee.new_epoch(arena_id, 0, other)[0] == other


def test_the_keys_of_a_session_never_repeat(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    session, epoch = tee.new_epoch(arena_id, 0)
    seen, epochs = {arena.map[:16]}, [epoch]
    for _ in range(50):
        epochs.append(tee.new_epoch(arena_id, 0, session)[1])
        seen.add(arena.map[:16])
    assert len(seen) == 51 and epochs == sorted(set(epochs))


@pytest.mark.parametrize("session", [2, 99, 2**64 - 1])
def test_an_unknown_session_gets_no_key(tee, arena, session):
    arena_id = tee.register_fd(arena.fd, arena.size)
    tee.new_epoch(arena_id, 0)
    epoch = tee.status()["epoch"]
    assert refusal(tee.new_epoch, arena_id, 64, session) == ResultCode.ITEM_NOT_FOUND
    assert not any(arena.map[16:]) and tee.status()["epoch"] == epoch


def test_a_key_that_cannot_be_delivered_leaves_the_session_and_spends_the_number(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    session, first = tee.new_epoch(arena_id, 0)
    used = tee.status()["used_bytes"]
    code = refusal(tee.new_epoch, arena_id, arena.size - 8, session)
    assert code == ResultCode.BAD_PARAMETERS
    assert tee.status()["used_bytes"] == used
    assert tee.new_epoch(arena_id, 0, session) == (session, first + 2)
    tee.drop_epoch(session)


def test_a_value_beside_the_session_is_refused(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    session, _ = tee.new_epoch(arena_id, 0)
    fields = {"session": tee._session, "command": KvCommand.NEW_EPOCH, "types": 0x211}
    values = (arena_id, 64, session, 1, 0, 0, 0, 0)
    code = refusal(tee._channel.call, Kind.INVOKE, "NEW_EPOCH", values=values, **fields)
    assert code == ResultCode.ITEM_NOT_FOUND
    assert not any(arena.map[16:])


def test_keys_count_as_due_until_the_next_one_is_drawn(tee, arena):
    arena_id = tee.register_fd(arena.fd, arena.size)
    sessions = [tee.new_epoch(arena_id, 16 * i)[0] for i in range(3)]

    def counts():
        stats = tee.stats()
        return stats.seal_keys, stats.seal_keys_due

    assert counts() == (3, 0)
    tee.rotate_keys()
    assert counts() == (3, 3)
    tee.new_epoch(arena_id, 0, sessions[0])
    tee.new_epoch(arena_id, 64)  # a new session's key is not due
    assert counts() == (4, 2)
    tee.drop_epoch(sessions[1])
    assert counts() == (3, 1)
    tee.new_epoch(arena_id, 0, sessions[2])
    assert counts() == (3, 0)


# ------------------------------------------------------------------ permutations


@pytest.mark.parametrize("role", ROLES)
def test_a_rotated_model_keeps_its_handle_and_permutes_by_the_next_epoch(tee, role):
    model = tee.open_model(SMALL)
    first = tee.model_epoch(model)
    tee.rotate_model(model)
    second = tee.model_epoch(model)
    assert second == first + 1 == tee.status()["epoch"]
    order = row_permutation(SMALL, second, 1, role)
    rows = os.urandom(4 * len(order))
    assert tee.permute_weights(model, 1, role, rows, 4) == gathered(rows, order, 4)
    tee.end_rotation(model)
    assert tee.permute_weights(model, 1, role, rows, 4) == gathered(rows, order, 4)
    assert order != row_permutation(SMALL, first, 1, role)


@pytest.mark.parametrize("layout", [SMALL, SMOL, WIDE], ids=["small", "smollm2", "wide"])
@pytest.mark.parametrize("role", ["k", "v"])
def test_rows_move_from_the_old_order_to_the_new_one_at_once(tee, layout, role):
    model = tee.open_model(layout)
    old = row_permutation(layout, tee.model_epoch(model), 1, role)
    tee.rotate_model(model)
    new = row_permutation(layout, tee.model_epoch(model), 1, role)
    rows = os.urandom(6 * len(old))
    shared = tee.register_memory(len(rows) + 20)
    shared.buffer[:10] = shared.buffer[-10:] = b"untouched!"
    shared.buffer[10:-10] = gathered(rows, old, 6)
    before = tee.crossings
    tee.reorder_rows(model, 1, role, shared, 10, 6, to="epoch")
    assert tee.crossings - before == 1
    assert bytes(shared.buffer[10:-10]) == gathered(rows, new, 6)
    assert bytes(shared.buffer[:10]) == bytes(shared.buffer[-10:]) == b"untouched!"
    tee.reorder_rows(model, 1, role, shared, 10, 6, to="model")
    assert bytes(shared.buffer[10:-10]) == rows


def test_attention_vectors_are_restored_by_the_next_epoch(tee):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(SMALL.n_heads * SMALL.head_dim * 4)
    tee.unpermute(model, 0, shared, 1)  # the old epoch's tables are built
    tee.rotate_model(model)
    words = os.urandom(len(shared.buffer))
    dim, heads = SMALL.head_dim, permutations(SMALL, tee.model_epoch(model), 0)
    group = SMALL.n_heads // SMALL.n_kv_heads
    order = [
        head * dim + value for head in range(SMALL.n_heads) for value in heads[head // group][1]
    ]
    shared.buffer[:] = gathered(words, order, 4)
    tee.unpermute(model, 0, shared, 1)
    assert bytes(shared.buffer) == words


def test_rows_move_between_the_two_steps_of_a_rotation_alone(tee):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(64)

    def move():
        tee.reorder_rows(model, 0, "k", shared, 0, 4, to="epoch")

    def moved():
        return refusal(move)

    assert moved() == ResultCode.BAD_STATE
    assert refusal(tee.end_rotation, model) == ResultCode.BAD_STATE
    tee.rotate_model(model)
    move()
    epoch = tee.model_epoch(model)
    assert refusal(tee.rotate_model, model) == ResultCode.BAD_STATE  # rows are on their way
    assert tee.model_epoch(model) == epoch == tee.status()["epoch"]
    tee.end_rotation(model)
    assert moved() == ResultCode.BAD_STATE
    tee.rotate_model(model)
    move()


def test_a_rotation_pays_for_both_epochs_and_gives_one_back(tee):
    size = LoadedModel.budget_bytes(SMALL)
    model = tee.open_model(SMALL)

    def used():
        return tee.status()["used_bytes"]

    assert used() == size
    tee.rotate_model(model)
    assert used() == 2 * size
    tee.end_rotation(model)
    assert used() == size
    tee.rotate_model(model)
    tee.close_model(model)
    assert used() == 0
    assert refusal(tee._rotate, model, 0) == ResultCode.ITEM_NOT_FOUND


def test_a_budget_without_room_for_a_second_epoch_leaves_the_model_as_it_was(tee):
    large = KvLayout(250, 64, 64, 128, 128, 32)
    model = tee.open_model(large)
    assert 16 << 20 < tee.status()["used_bytes"] < 32 << 20
    rows = os.urandom(64 * 128)
    before = tee.permute_weights(model, 0, "k", rows, 1)
    assert refusal(tee.rotate_model, model) == ResultCode.OUT_OF_MEMORY
    assert tee.permute_weights(model, 0, "k", rows, 1) == before
    assert tee.model_epoch(model) == 1 and tee.status()["epoch"] == 2  # the number is spent


@pytest.mark.parametrize("model,stage", [(9, 0), (9, 1), (0, 1), (1, 2), (1, 2**64 - 1)])
def test_a_rotation_of_no_model_or_stage_is_refused(tee, model, stage):
    tee.open_model(SMALL)
    code = refusal(tee._rotate, model, stage)
    assert code == (ResultCode.BAD_STATE if model == 1 else ResultCode.ITEM_NOT_FOUND)
    assert tee.status()["epoch"] == 1


def test_the_kv_application_does_not_rotate_models_itself(tee):
    model = tee.open_model(SMALL)
    fields = {"command": AdminCommand.ROTATE, "types": 0x21, "values": (model, *[0] * 7)}
    code = refusal(tee._channel.call, Kind.INVOKE, "ROTATE", session=tee._session, **fields)
    assert code == ResultCode.BAD_PARAMETERS  # number 3 is PERMUTE_WEIGHTS there
    tee._channel.call(Kind.INVOKE, "ROTATE", session=tee._session_with(TA_ADMIN), **fields)
    assert tee.status()["epoch"] == 2


def test_a_device_with_fuses_rotates_under_numbers_of_its_start(tmp_path, arena):
    folder = tmp_path / "device"
    folder.mkdir(mode=0o700)
    with TeeClient.launch(fuses=folder / "fuses") as tee:
        tee.open_store().start(b"")
        model = tee.open_model(SMALL)
        session, _ = tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
        tee.rotate_model(model)
        assert tee.model_epoch(model) == 1 << 32 | 3
        assert tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0, session)[1] == 1 << 32 | 4


def test_what_a_rotation_replaced_is_overwritten():
    secrets = SecretMemory()
    old_key, new_key = (secrets.keep(keys.epoch_key(ROOT_KEY, epoch)) for epoch in (1, 2))
    old = LoadedModel(SMALL, old_key)
    old.unpermute(0, memoryview(bytearray(SMALL.n_heads * SMALL.head_dim * 4)))
    (table,) = old._indices.values()
    new = LoadedModel(SMALL, new_key, old)
    assert any(table) and any(old_key.view)
    new.forget_before()
    assert not any(table) and not any(old_key.view)
    assert (new.before, old._heads, old._indices) == (None, {}, {})
    assert invert(new._layer_heads(0)[0].values)  # the new ones stay
