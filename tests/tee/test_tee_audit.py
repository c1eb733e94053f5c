"""The audit log: what it takes down, what it must not, and that no change of it goes unnoticed."""

import hashlib
import os
import random
import struct

import pytest
from tee_helpers import ROOT_KEY, SMALL, seal_key
from test_tee_fuzz import Peer

from tee_sim import keys
from tee_sim.audit import MAX_RUN_CALLS, AuditLog
from tee_sim.audit_chain import (
    DIGEST_BYTES,
    GENESIS,
    MAX_RECORDS,
    RECORD_BYTES,
    AuditTail,
    read_tail,
)
from tee_sim.caller import Caller
from tee_sim.client import TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.protocol import TA_ADMIN, TA_KV, Frame, Kind, KvCommand, decode

KV, ADMIN = TA_KV[0], TA_ADMIN[0]


def note(log, request, application, code, origin):
    """What the dispatcher does with an answered packet."""
    if not log.repeats(request, code, origin):
        log.begin(request, application, code, origin)


def frame(seq, command=KvCommand.UNPERMUTE, session=1, types=0x11F, size=64, kind=Kind.INVOKE):
    return Frame(kind, session, command, types, 0, seq, (size, *[0] * 7))


def varied_log(count=6, keep=MAX_RECORDS, start=1):
    """A log of `count` records, no two alike."""
    log = AuditLog(keep)
    for seq in range(start, start + count):
        note(log, frame(seq, command=1 + seq % 5, session=1 + seq % 3, size=seq), KV, 0, 0)
    return log


def refusal(call, *args, **named):
    with pytest.raises(TeeError) as refused:
        call(*args, **named)
    return refused.value.code


def test_the_chain_is_the_documented_one():
    log = AuditLog(clock=lambda: 5_000_000)
    note(log, frame(7, size=10), KV, 0, 0)
    note(log, frame(9, command=6, types=0x1), KV, ResultCode.ITEM_NOT_FOUND, 4)
    data, length, head = log.tail(10)
    layout = "<QQQQQQQIIIIHH"
    first = struct.pack(layout, 0, KV, 7, 7, 0, 10, 10, 1, 1, 4, 0, 4, 0)
    second = struct.pack(layout, 1, KV, 9, 9, 0, 0, 0, 1, 1, 6, 0xFFFF0008, 4, 4)
    genesis = hashlib.sha256(b"ptmo-secure/tee/audit/v1").digest()
    assert data == genesis + first + second
    link = hashlib.sha256(hashlib.sha256(genesis + first).digest() + second).digest()
    assert (length, head) == (2, link)
    assert len(first) == RECORD_BYTES


def test_like_calls_one_after_the_other_are_one_record():
    now = [0]
    log = AuditLog(clock=lambda: now[0])
    for seq in range(1, 31):
        now[0] = seq * 1_000_000
        note(log, frame(seq), KV, 0, 0)
    note(log, frame(31, session=2), KV, 0, 0)
    note(log, frame(32, session=2), KV, ResultCode.BAD_PARAMETERS, 4)
    note(log, frame(33), KV, 0, 0)
    records = read_tail(*log.tail(10)).records
    assert [(r.first_seq, r.last_seq, r.calls) for r in records] == [
        (1, 30, 30),
        (31, 31, 1),
        (32, 32, 1),
        (33, 33, 1),
    ]
    assert (records[0].bytes_in, records[0].bytes_out, records[0].at_ms) == (30 * 64, 30 * 64, 1)
    assert [r.code for r in records] == [0, 0, ResultCode.BAD_PARAMETERS, 0]


def test_reading_a_tail_ends_the_open_run():
    log = AuditLog()
    for seq in (1, 2):
        note(log, frame(seq), KV, 0, 0)
    log.tail(0)
    for seq in (3, 4, 5):
        note(log, frame(seq), KV, 0, 0)
    records = read_tail(*log.tail(10)).records
    assert [(r.first_seq, r.last_seq, r.calls) for r in records] == [(1, 2, 2), (3, 5, 3)]


def test_a_run_ends_at_its_limit_so_that_no_sum_overflows():
    log = AuditLog()
    hostile = Frame(Kind.INVOKE, 1, 4, 0xFFFF, 0, 5, (2**64 - 1,) * 8)
    for _ in range(MAX_RUN_CALLS + 1):
        note(log, hostile, KV, ResultCode.BAD_PARAMETERS, 4)
    records = read_tail(*log.tail(10)).records
    assert [r.calls for r in records] == [MAX_RUN_CALLS, 1]
    assert records[0].bytes_in == MAX_RUN_CALLS * 4 * (2**32 - 1)
    assert (log.bytes_in, log.refused) == (0, MAX_RUN_CALLS + 1)


def test_the_log_is_bounded_and_its_chain_goes_on_over_what_was_dropped():
    log = varied_log(count=50, keep=8)
    data, length, head = log.tail(1000)
    assert (length, log.kept, len(data)) == (50, 8, DIGEST_BYTES + 8 * RECORD_BYTES)
    tail = read_tail(data, length, head)
    assert [r.number for r in tail.records] == list(range(42, 50))
    whole = read_tail(*varied_log(count=50, keep=50).tail(50))
    assert whole.records[42].first_seq == tail.records[0].first_seq


@pytest.mark.parametrize("most", [0, 1, 3, 6, 9])
def test_a_tail_of_any_length_leads_to_the_head(most):
    log = varied_log()
    tail = read_tail(*log.tail(most))
    assert [r.number for r in tail.records] == list(range(max(0, 6 - most), 6))
    assert tail.length == 6 and tail.head == log.tail(0)[2]


@pytest.mark.parametrize("most", [6, 3])
def test_a_flip_of_any_byte_is_found(most):
    data, length, head = varied_log().tail(most)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        assert refusal(read_tail, bytes(changed), length, head) == ResultCode.SECURITY, position
    for position in range(DIGEST_BYTES):
        changed = bytearray(head)
        changed[position] ^= 1
        assert refusal(read_tail, data, length, bytes(changed)) == ResultCode.SECURITY


def split(data):
    """A tail's first digest and its records."""
    return data[:DIGEST_BYTES], [
        data[at : at + RECORD_BYTES] for at in range(DIGEST_BYTES, len(data), RECORD_BYTES)
    ]


CHANGES = {
    "first record cut": lambda before, r: (before, r[1:], 0),
    "first record cut, length adjusted": lambda before, r: (before, r[1:], -1),
    "last record cut": lambda before, r: (before, r[:-1], 0),
    "last record cut, length adjusted": lambda before, r: (before, r[:-1], -1),
    "record cut in the middle": lambda before, r: (before, r[:2] + r[3:], 0),
    "neighbours swapped": lambda before, r: (before, [r[1], r[0], *r[2:]], 0),
    "reversed": lambda before, r: (before, r[::-1], 0),
    "record repeated": lambda before, r: (before, [*r, r[-1]], 0),
    "record repeated, length adjusted": lambda before, r: (before, [*r, r[-1]], 1),
    "everything cut": lambda before, r: (before, [], 0),
    "everything cut, length adjusted": lambda before, r: (before, [], -len(r)),
    "length lowered": lambda before, r: (before, r, -1),
    "length raised": lambda before, r: (before, r, 1),
    "half a record": lambda before, r: (before, [*r[:-1], r[-1][:40]], 0),
    "half a digest": lambda before, r: (before[:16], [], 0),
    "another start": lambda before, r: (bytes(32), r, 0),
}


@pytest.mark.parametrize("most", [6, 3], ids=["whole log", "tail"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_cutting_reordering_and_inserting_are_found(change, most):
    data, length, head = varied_log().tail(most)
    before, records, moved = change(*split(data))
    changed = before + b"".join(records)
    assert refusal(read_tail, changed, length + moved, head) == ResultCode.SECURITY


def test_a_renumbered_and_rechained_log_is_found_by_its_head():
    data, length, head = varied_log().tail(6)
    before, records = split(data)
    del records[2]
    forged = [struct.pack("<Q", i) + record[8:] for i, record in enumerate(records)]
    changed = before + b"".join(forged)
    assert refusal(read_tail, changed, length - 1, head) == ResultCode.SECURITY
    digest = GENESIS
    for record in forged:
        digest = hashlib.sha256(digest + record).digest()
    read_tail(changed, length - 1, digest)  # with a head of its own it is a log
    known = read_tail(data, length, head)
    assert refusal(read_tail, changed, length - 1, digest, known) == ResultCode.SECURITY


def test_a_whole_log_starts_where_logs_start():
    _, records = split(varied_log().tail(6)[0])
    digest = start = hashlib.sha256(b"elsewhere").digest()
    for record in records:
        digest = hashlib.sha256(digest + record).digest()
    data = start + b"".join(records)
    assert refusal(read_tail, data, 6, digest) == ResultCode.SECURITY


def test_a_later_tail_must_continue_the_one_known():
    log = varied_log(count=6)
    known = read_tail(*log.tail(2))
    assert read_tail(*log.tail(6), known).length == 6  # nothing new
    note(log, frame(20, session=9), KV, 0, 0)
    note(log, frame(21, session=8), KV, 0, 0)
    later = read_tail(*log.tail(2), known)
    assert later.length == 8 and later.head != known.head
    assert refusal(read_tail, *log.tail(1), known) == ResultCode.BAD_PARAMETERS  # a gap
    other = varied_log(count=9, start=2)
    assert refusal(read_tail, *other.tail(9), known) == ResultCode.SECURITY
    shorter = varied_log(count=5)
    assert refusal(read_tail, *shorter.tail(5), known) == ResultCode.SECURITY


def test_a_live_tee_takes_down_every_call(tee, arena):
    model = tee.open_model(SMALL)
    shared = tee.register_memory(4096)
    for _ in range(30):
        tee.unpermute(model, 0, shared, 1)
    with pytest.raises(TeeError):
        tee.drop_epoch(77)
    tail = tee.audit_tail()
    width = SMALL.n_heads * SMALL.head_dim * 4
    assert [
        (r.kind, r.application, r.session, r.command, r.code, r.calls) for r in tail.records
    ] == [
        (Kind.INITIALIZE, 0, 0, 0, 0, 1),
        (Kind.OPEN_SESSION, KV, 1, 0, 0, 1),
        (Kind.INVOKE, KV, 1, KvCommand.OPEN_MODEL, 0, 1),
        (Kind.REGISTER_MEMORY, 0, 0, 0, 0, 1),
        (Kind.INVOKE, KV, 1, KvCommand.UNPERMUTE, 0, 30),
        (Kind.INVOKE, KV, 1, KvCommand.DROP_EPOCH, ResultCode.ITEM_NOT_FOUND, 1),
        (Kind.OPEN_SESSION, ADMIN, 2, 0, 0, 1),
        (Kind.REGISTER_MEMORY, 0, 0, 0, 0, 1),
    ]
    assert (tail.records[4].bytes_in, tail.records[4].bytes_out) == (30 * width, 30 * width)
    assert tail.records[5].origin == 4
    later = tee.audit_tail(known=tail)
    assert (later.records[-1].application, later.records[-1].session) == (ADMIN, 2)
    assert later.length == tail.length + 1
    assert tee.audit_tail(0).records == ()


def test_the_tees_own_counts_agree_with_the_hosts_ledger(tee):
    assert tee.stats().crossings == 0  # of itself it does not tell
    model = tee.open_model(SMALL)
    tee.permute_weights(model, 0, "q", bytes(64), 2)
    with pytest.raises(TeeError):
        tee.drop_epoch(5)
    usage, stats = tee.ledger.usage(), tee.stats()
    assert (stats.crossings, stats.refused) == (usage.crossings, 1) == (4, 1)
    assert (stats.bytes_in, stats.bytes_out) == (usage.bytes_in, usage.bytes_out) == (64, 64)
    assert stats.audit_records >= 5 and stats.uptime_ms >= 0


def test_the_log_holds_nothing_of_what_a_call_carried(tee, arena):
    model = tee.open_model(SMALL)
    rows = os.urandom(128)
    permuted = tee.permute_weights(model, 0, "q", rows, 4)
    shared = tee.register_memory(4096)
    shared.buffer[:128] = os.urandom(128)
    vectors = bytes(shared.buffer[:128])
    tee.unpermute(model, 0, shared, 1)
    arena_id = tee.register_fd(arena.fd, arena.size)
    session, epoch = tee.new_epoch(arena_id, 0)
    digest, file_id = os.urandom(32), os.urandom(16)
    tee.storage_key(arena_id, 64, digest, file_id)
    log = tee.audit_tail(1000)
    assert {r.command for r in log.records} >= {1, 3, 4, 5, 7}
    data = b"".join(record.pack() for record in log.records)
    needles = {
        "rows": rows,
        "permuted rows": permuted,
        "vectors": vectors,
        "restored vectors": bytes(shared.buffer[:128]),
        "root key": ROOT_KEY,
        "seal key": seal_key(epoch, session),
        "epoch key": keys.epoch_key(ROOT_KEY, epoch),
        "storage key": keys.saved_session_key(ROOT_KEY, digest, file_id),
        "digest": digest,
        "file id": file_id,
    }
    for name, needle in needles.items():
        for at in range(0, len(needle) - 7, 8):
            assert needle[at : at + 8] not in data, name


def test_a_change_of_the_shared_memory_before_it_is_read_is_found(tee, monkeypatch):
    tee.open_model(SMALL)
    tee.audit_tail()
    invoke = Caller._invoke

    def tampered(self, *args):
        values = invoke(self, *args)
        self._window.buffer[DIGEST_BYTES + RECORD_BYTES + 60] ^= 1
        return values

    monkeypatch.setattr(Caller, "_invoke", tampered)
    with pytest.raises(TeeError, match="do not lead to the log's head") as refused:
        tee.audit_tail()
    assert refused.value.code == ResultCode.SECURITY


def test_a_tail_of_another_tee_does_not_continue_this_ones(tee):
    known = tee.audit_tail()
    tee.status()
    with TeeClient.launch() as other:
        other.status()
        for _ in range(3):
            with pytest.raises(TeeError):
                other.drop_epoch(1)
            other.status()
        assert refusal(other.audit_tail, 64, known) == ResultCode.SECURITY
    assert tee.audit_tail(64, known).length > known.length


def test_packets_that_are_no_frames_are_taken_down_as_such(tee):
    for packet in (b"x", bytes(96), b"y" * 500):
        tee._channel._socket.send(packet)
        assert decode(tee._channel._socket.recv(4096)).command == ResultCode.BAD_FORMAT
    record = next(r for r in tee.audit_tail().records if r.kind == 0)
    assert (record.calls, record.code, record.origin) == (3, ResultCode.BAD_FORMAT, 2)
    assert (record.first_seq, record.application, record.bytes_in) == (0, 0, 0)


@pytest.mark.parametrize(
    ("room", "most", "records"),
    [(32, 9, 0), (31, 9, None), (0, 0, None), (32 + 3 * RECORD_BYTES - 1, 9, 2), (65_000, 2, 2)],
)
def test_as_many_records_are_written_as_fit(room, most, records):
    peer = Peer("core", random.Random(0))
    request = (peer.memory << 32 | room, 0, most, *[0] * 5)
    packet = peer.frame(Kind.INVOKE, 0x223E, request, session=peer.admin, command=2)
    reply = decode(peer.exchange(packet))
    if records is None:
        assert reply.command == ResultCode.SHORT_BUFFER
    else:
        assert reply.values[2] == DIGEST_BYTES + records * RECORD_BYTES
    peer.close()


@pytest.mark.parametrize("most", [-1, MAX_RECORDS + 1])
def test_more_records_than_a_log_keeps_are_refused_by_name(tee, most):
    with pytest.raises(TeeError, match=f"most={most} is outside 0..1024"):
        tee.audit_tail(most)


def test_the_guard_keeps_no_log():
    with TeeClient.launch("guard") as guard:
        assert refusal(guard.audit_tail) == ResultCode.ITEM_NOT_FOUND
        assert guard.scan("hello").level == "PUBLIC"


def test_a_flood_of_calls_neither_grows_the_log_nor_breaks_it(tee):
    for _ in range(MAX_RECORDS):
        tee.status()
        with pytest.raises(TeeError):
            tee.drop_epoch(9)
    tail = tee.audit_tail(MAX_RECORDS)
    assert isinstance(tail, AuditTail)
    assert len(tail.records) == MAX_RECORDS == tee.stats().audit_records
    assert tail.length > 2 * MAX_RECORDS
