"""The cost ledger: what calls on a live TEE are counted as, and what injecting their cost takes."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
from tee_helpers import ROOT_KEY, SMALL

from tee_sim import ledger as ledger_module
from tee_sim.client import CostLedger, TeeClient, TeeDeadError, TeeError, Usage
from tee_sim.protocol import NO_VALUES, Kind, KvCommand, ParamType, param_types, referenced_bytes
from tee_sim.scan_calls import MIN_SPANS
from tee_sim.scan_result import SPAN_BYTES

IN, OUT, BOTH = ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT, ParamType.MEMREF_INOUT
VALUE = ParamType.VALUE_INOUT


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((IN,), (5, 0)),
        ((OUT,), (0, 5)),
        ((BOTH,), (5, 5)),
        ((VALUE, BOTH), (6, 6)),
        ((VALUE, VALUE, VALUE, VALUE), (0, 0)),
        ((ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT), (0, 0)),
        ((IN, OUT, BOTH, IN), (5 + 7 + 8, 6 + 7)),
    ],
)
def test_bytes_are_those_of_memory_references_by_their_direction(types, expected):
    sizes = [5, 0, 1 << 32 | 6, 99, 2 << 32 | 7, 99, 3 << 32 | 8, 99]  # id << 32 | size, offset
    assert referenced_bytes(param_types(*types), tuple(sizes)) == expected


def by_command(client):
    return {(row.session, row.application, row.command): row.usage for row in client.ledger.rows()}


def test_every_command_is_counted_with_its_bytes(tee, arena):
    model = tee.open_model(SMALL)
    tee.permute_weights(model, 0, "q", bytes(32 * 3), 3)
    shared = tee.register_memory(4096)
    for _ in range(5):
        tee.unpermute(model, 0, shared, 2)
    arena_id = tee.register_fd(arena.fd, arena.size)
    tee.new_epoch(arena_id, 0)
    vectors = 2 * SMALL.n_heads * SMALL.head_dim * 4
    assert by_command(tee) == {
        (1, "kv", "OPEN_MODEL"): Usage(1),
        (1, "kv", "PERMUTE_WEIGHTS"): Usage(1, 96, 96),
        (1, "kv", "UNPERMUTE"): Usage(5, 5 * vectors, 5 * vectors),
        (1, "kv", "NEW_EPOCH"): Usage(1),
    }
    moved = 96 + 5 * vectors
    window = tee._window.size_bytes  # the client's own, which the weights crossed in
    assert tee.ledger.usage() == Usage(8, moved, moved, 3, window + 4096 + arena.size)
    assert tee.status()["crossings"] == tee.crossings == 8


def test_a_difference_is_what_happened_in_between(tee):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    before = tee.ledger.usage()
    tee.unpermute(model, 0, shared, 1)
    size = SMALL.n_heads * SMALL.head_dim * 4
    assert tee.ledger.usage() - before == Usage(1, size, size)
    assert before + (tee.ledger.usage() - before) == tee.ledger.usage()


def test_a_refused_command_crossed_and_one_that_was_never_sent_did_not(tee):
    with pytest.raises(TeeError):
        tee.drop_epoch(99)
    assert tee.crossings == 1
    with pytest.raises(TeeError, match="out of range"):
        tee.drop_epoch(1 << 64)
    assert tee.crossings == 1 == tee.status()["crossings"]


def test_the_guards_calls_are_counted_too():
    with TeeClient.launch("guard") as guard:
        guard.scan("abc")
        (((_, application, command), usage),) = by_command(guard).items()
    assert (application, command) == ("guard", "SCAN")
    assert usage == Usage(1, 3, MIN_SPANS * SPAN_BYTES)  # the text; room for spans


def test_a_ledger_goes_on_where_a_dead_tee_left_it():
    ledger = CostLedger()
    with TeeClient.launch(debug_root_key=ROOT_KEY, ledger=ledger) as first:
        first.open_model(SMALL)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(TeeDeadError):
            for _ in range(10):
                first.open_model(SMALL)
    so_far = ledger.crossings
    with TeeClient.launch(ledger=ledger) as second:
        second.open_model(SMALL)
        assert second.crossings == ledger.crossings == so_far + 1


def test_an_injected_cost_is_spent_on_every_call_and_mapping_by_spinning(tee, monkeypatch):
    def no_sleep(*_):
        raise AssertionError("slept")

    model = tee.open_model(SMALL)
    asked = []

    def price(usage):
        asked.append(usage)
        return 2.0

    monkeypatch.setattr(ledger_module.time, "sleep", no_sleep)
    tee.ledger.inject(price)
    wall, cpu = time.perf_counter(), time.thread_time()
    shared = tee.register_memory(4096)
    for _ in range(19):
        tee.unpermute(model, 0, shared, 1)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    size = SMALL.n_heads * SMALL.head_dim * 4
    assert asked == [Usage(registrations=1, registered_bytes=4096), *[Usage(1, size, size)] * 19]
    assert wall >= 0.040
    assert cpu >= 0.020  # a sleep takes none; a busy machine may take half of the spin away
    assert 40 <= tee.ledger.injected_ms <= 1000 * wall
    tee.ledger.inject(None)
    tee.unpermute(model, 0, shared, 1)
    assert len(asked) == 20


def test_nothing_is_injected_unless_asked_for(tee):
    tee.open_model(SMALL)
    assert tee.ledger.injected_ms == 0


def test_commands_of_unknown_numbers_and_sessions_are_still_counted():
    ledger = CostLedger()
    ledger.sent(Kind.INVOKE, 7, 99, 0, (0,) * 8)
    ledger.opened(7, (1, 2))
    ledger.sent(Kind.INVOKE, 8, KvCommand.UNPERMUTE, 0, (0,) * 8)
    ledger.sent(Kind.STATUS, 0, 0, 0, (0,) * 8)
    rows = [(row.session, row.application, row.command) for row in ledger.rows()]
    assert rows == [(7, "unknown", "99"), (8, "unknown", "UNPERMUTE")]
    assert ledger.usage() == Usage(2)


def test_the_wall_time_of_a_command_is_that_of_its_calls(tee):
    before = tee.ledger.usage()
    start = time.perf_counter()
    for _ in range(20):
        tee.stats()
    elapsed_ms = 1000 * (time.perf_counter() - start)
    assert 0 < (tee.ledger.usage() - before).wall_ms <= elapsed_ms


def test_injected_time_is_no_wall_time_and_mapping_memory_is_none(monkeypatch):
    ledger = CostLedger()
    ledger.inject(lambda usage: 0.001)
    clock = iter(range(7_000_000, 10**9, 1_000_000))  # of a machine that takes 1 ms for everything
    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(perf_counter_ns=lambda: next(clock)))
    ledger.sent(Kind.INVOKE, 1, 2, 0, NO_VALUES)
    ledger.answered(2_000_000)
    assert ledger.usage().wall_ms == 5.0 and ledger.injected_ms >= 1.0
    ledger.sent(Kind.REGISTER_MEMORY, 0, 0, 0, (4096, *NO_VALUES[1:]))
    ledger.answered(2_000_000)
    assert ledger.usage().wall_ms == 5.0 and ledger.usage().registrations == 1
