import random
import struct
import threading

import pytest
from tee_helpers import SMALL, Arena, permutations, row_permutation, seal_key

from tee_sim.client import TeeClient, TeeDeadError
from tee_sim.errors import ResultCode, TeeError
from tee_sim.protocol import NO_VALUES, TA_KV, Kind


def run_threads(n, work, seconds=60):
    """Run `work(i)` in n threads, for so long at most, and re-raise the first failure."""
    failures = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def test_eight_threads_share_one_client(tee):
    model = tee.open_model(SMALL)
    epoch = tee.model_epoch(model)
    heads = permutations(SMALL, epoch, 1)
    order = row_permutation(SMALL, epoch, 0, "q")
    width, dim = SMALL.n_heads * SMALL.head_dim, SMALL.head_dim

    def work(i):
        rng = random.Random(i)
        shared = tee.register_memory(width * 4)
        for _ in range(40):
            vector = [rng.getrandbits(32) for _ in range(width)]
            permuted = [
                vector[h * dim + source]
                for h in range(SMALL.n_heads)
                for source in heads[h // 2][1]
            ]
            struct.pack_into(f"<{width}I", shared.buffer, 0, *permuted)
            tee.unpermute(model, 1, shared, 1)
            assert list(struct.unpack_from(f"<{width}I", shared.buffer)) == vector
            rows = rng.randbytes(width * 3)
            expected = b"".join(rows[r * 3 : r * 3 + 3] for r in order)
            assert tee.permute_weights(model, 0, "q", rows, 3) == expected
        shared.close()

    run_threads(8, work)
    assert tee.status()["crossings"] == tee.crossings == 1 + 8 * 80


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_sealing_sessions_have_their_own_keys(tee, count):
    arena = Arena(size=16 * count)
    arena_id = tee.register_fd(arena.fd, arena.size)
    sessions = [tee.new_epoch(arena_id, 16 * i) for i in range(count)]
    for i, (session, epoch) in enumerate(sessions):
        assert arena.map[16 * i : 16 * i + 16] == seal_key(epoch, session)
    assert len({arena.map[16 * i : 16 * i + 16] for i in range(count)}) == count
    for session, _ in sessions:
        tee.drop_epoch(session)
    assert tee.status()["used_bytes"] == 0
    arena.close()


def test_client_sessions_are_limited_and_closable(tee):
    def open_one():
        values = (*TA_KV, *NO_VALUES[2:])
        return tee._channel.call(Kind.OPEN_SESSION, "open", types=1, values=values)[0]

    opened = [open_one() for _ in range(255)]
    with pytest.raises(TeeError) as refused:
        open_one()
    assert refused.value.code == ResultCode.BUSY
    tee._channel.call(Kind.CLOSE_SESSION, "close", session=opened[0])
    assert open_one() == opened[-1] + 1


def test_an_unknown_application_has_no_session(tee):
    with pytest.raises(TeeError) as refused:
        tee._channel.call(Kind.OPEN_SESSION, "open", types=1, values=(1, 2, *NO_VALUES[2:]))
    assert refused.value.code == ResultCode.ITEM_NOT_FOUND


def test_closing_while_threads_call_ends_in_a_clear_error():
    client = TeeClient.launch()
    model = client.open_model(SMALL)
    shared = client.register_memory(SMALL.n_heads * SMALL.head_dim * 4)
    started = threading.Barrier(5)
    outcomes = []

    def work(_):
        started.wait()
        try:
            for _ in range(100_000):
                client.unpermute(model, 0, shared, 1)
        except TeeDeadError as error:
            outcomes.append(str(error))

    def close(_):
        started.wait()
        client.close()

    run_threads(5, lambda i: close(i) if i == 4 else work(i))
    assert len(outcomes) == 4
    assert all("closed" in text for text in outcomes)
