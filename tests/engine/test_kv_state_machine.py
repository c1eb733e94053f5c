"""Append, truncate, fork, close, save, resume and rewrite native sessions in any order.

After every step the whole arena is read from outside and checked: contents, headers, zeros, and
that no (key, counter) pair ever sealed two records. The pairs are computed here from the pages'
sequence numbers; the C++ ledger (PTMO_COUNT_COUNTERS) counts them a second time where it is built.
"""

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ptmo_secure import _native
from tests.engine.kv_model import (
    DIM,
    HEADS,
    LAYERS,
    PLACES,
    ROWS,
    Family,
    KeyArena,
    Memory,
    Tracked,
    new_key,
    record,
)

CAPACITY = 14
MAX_SESSIONS = 5
EXAMPLES = 2000  # `make test-slow` runs them all, the plain suite 2 %
STEPS = 40
FILE_HEADER = b"a file's header"

pick = st.integers(0, 10**6)


class Saved:
    """A file: its key, its sealed pages, and what should be in them."""

    def __init__(self, key, pages, writers, tag):
        self.key, self.pages, self.writers, self.tag = key, pages, writers, tag


class KvMachine(RuleBasedStateMachine):
    """Sessions of several families in one arena."""

    def __init__(self):
        super().__init__()
        self.keys = KeyArena()
        self.memory = Memory(CAPACITY)
        self.sessions = []
        self.saved = []
        self.ids = 0
        self.writers = 0
        self.records = 0
        self.counted = _counted()

    def teardown(self):
        for session in self.sessions:
            session.native.close()
        self.memory.read()
        assert not any(self.memory.raw)
        assert self.keys.is_zero()
        self.keys.close()

    # ------------------------------------------------------------ helpers

    def chosen(self, number):
        return self.sessions[number % len(self.sessions)]

    def open(self):
        self.ids += 1
        family = Family(self.ids, 1000 + self.ids, new_key(16))
        family.slot = self.keys.deliver(family.key)
        native = _native.KvSession(
            self.memory.arena, family.id, family.epoch, self.keys.native, family.slot
        )
        self.sessions.append(Tracked(self.ids, native, family))
        return self.sessions[-1]

    def others(self, session):
        """What every other session's rows look like before something happens to `session`."""
        self.memory.read()
        return [(s, self.memory.rows_of(s)) for s in self.sessions if s is not session]

    def check_others(self, before):
        self.memory.read()
        for session, rows in before:
            assert self.memory.rows_of(session) == rows, "another session's rows changed"

    def took(self, session, first):
        """Rows from `first` on are new: so must be their sequence numbers, and in order."""
        self.memory.read()
        numbers = [seq for seq, _ in self.memory.rows_of(session)[first:]]
        known = session.family.numbers
        assert not known & set(numbers), "a sequence number was given out twice"
        assert numbers == sorted(set(numbers))
        assert not known or min(numbers, default=1 << 64) > max(known)
        known.update(numbers)

    def wrote_anew(self, family):
        """Every row of a family's pages has a number that is new, each page its own."""
        self.memory.read()
        rows = {}
        for session in self.sessions:
            if session.family is family:
                numbers = iter([seq for seq, _ in self.memory.rows_of(session)])
                for _, page, used in session.pages():
                    of_page = [next(numbers) for _ in range(used)]
                    rows[page] = max(rows.get(page, []), of_page, key=len)
        numbers = [number for of_page in rows.values() for number in of_page]
        assert len(set(numbers)) == len(numbers)
        assert not family.numbers or min(numbers, default=1 << 64) > max(family.numbers)
        family.numbers.update(numbers)
        self.records += len(numbers) * len(PLACES)

    def append_to(self, session, rows):
        """Append `rows` rows; False (and nothing changed) when the arena is full."""
        first = len(session.writers)
        ids, numbers = session.native.page_ids, len(session.family.numbers)
        try:
            session.native.append(rows)
        except RuntimeError as error:
            assert "the KV cache is full" in str(error)
            assert (session.native.length, session.native.page_ids) == (first, ids)
            assert len(session.family.numbers) == numbers
            return False
        for position in range(first, first + rows):
            self.writers += 1
            session.writers.append(self.writers)
            for layer in range(LAYERS):
                for head in range(HEADS):
                    k, v = (record(self.writers, layer, kind << 14 | head, DIM) for kind in (0, 1))
                    pair = struct.unpack("<2f", record(self.writers, layer, 2 << 14 | head, 8))
                    session.native.write(layer, head, position, k, v, pair)
        self.records += rows * len(PLACES)
        pages = range(first // ROWS, -(-len(session.writers) // ROWS))
        session.page_tags[pages.start :] = [session.tag] * len(pages)
        self.took(session, first)
        return True

    def plaintext(self, writers):
        """A stored page's plaintext by its definition."""
        out = b""
        for layer in range(LAYERS):
            for head in range(HEADS):
                for kind, size in ((0, DIM), (1, DIM), (2, 8)):
                    out += b"".join(record(w, layer, kind << 14 | head, size) for w in writers)
        return out

    # ------------------------------------------------------------ rules

    @initialize()
    def start(self):
        self.open()

    @rule()
    @precondition(lambda self: len(self.sessions) < MAX_SESSIONS)
    def open_another(self):
        self.open()

    @rule(which=pick, rows=st.integers(1, 2 * ROWS + 3))
    def append(self, which, rows):
        session = self.chosen(which)
        before = self.others(session)
        self.append_to(session, rows)
        self.check_others(before)

    @rule(which=pick, keep=pick)
    def truncate(self, which, keep):
        session = self.chosen(which)
        before = self.others(session)
        length = keep % (len(session.writers) + 1)
        session.native.truncate(length)
        del session.writers[length:]
        del session.page_tags[-(-length // ROWS) :]
        self.check_others(before)

    @rule(which=pick, back=st.integers(1, ROWS + 2), rows=st.integers(1, ROWS + 2))
    def roll_back(self, which, back, rows):
        session = self.chosen(which)
        before = self.others(session)
        length = max(0, len(session.writers) - back)
        session.native.truncate(length)
        del session.writers[length:]
        del session.page_tags[-(-length // ROWS) :]
        self.append_to(session, rows)
        self.check_others(before)

    @rule(which=pick)
    @precondition(lambda self: len(self.sessions) < MAX_SESSIONS)
    def fork(self, which):
        origin = self.chosen(which)
        before = self.others(None)
        self.ids += 1
        self.sessions.append(
            Tracked(
                self.ids,
                origin.native.fork(self.ids),
                origin.family,
                list(origin.writers),
                origin.tag,
                list(origin.page_tags),
            )
        )
        assert self.sessions[-1].native.page_ids == origin.native.page_ids
        self.check_others(before)

    @rule(which=pick)
    @precondition(lambda self: len(self.sessions) > 1)
    def close(self, which):
        session = self.chosen(which)
        before = self.others(session)
        self.sessions.remove(session)
        session.native.close()
        self.check_others(before)

    @rule(which=pick, tag=st.integers(0, 2**64 - 1))
    def change_adapters(self, which, tag):
        session = self.chosen(which)
        before = self.others(session)
        try:
            session.native.adapter_tag = tag
        except RuntimeError as error:
            assert "the KV cache is full" in str(error)
        else:
            mine = set(session.native.page_ids)
            shared = any(mine & set(s.native.page_ids) for s, _ in before)
            assert not shared or tag == session.tag
            session.tag = tag
        assert session.native.adapter_tag == session.tag
        self.check_others(before)

    @rule(which=pick)
    def rekey(self, which):
        session = self.chosen(which)
        family, old = session.family, session.family.slot
        before = [(s, rows) for s, rows in self.others(session) if s.family is not family]
        family.epoch += 1000
        family.key = new_key(16)
        family.ciphertexts.clear()
        family.slot = self.keys.deliver(family.key)
        session.native.rekey(family.epoch, family.slot)
        assert self.keys.is_zero(old) and not self.keys.is_zero(family.slot)
        self.wrote_anew(family)
        self.check_others(before)

    @rule(which=pick, shift=st.integers(0, DIM - 1))
    def reorder(self, which, shift):
        """To another order and back: the rows are the same under new numbers, the key stays."""
        session = self.chosen(which)
        before = [(s, rows) for s, rows in self.others(session) if s.family is not session.family]
        buffer = bytearray(2 * HEADS * DIM * ROWS)
        for step in (shift, -shift):

            def turn(layer, rows, step=step):
                for at in range(0, 2 * HEADS * DIM * rows, DIM * rows):
                    head = buffer[at : at + DIM * rows]
                    cut = step % DIM * rows
                    buffer[at : at + DIM * rows] = head[cut:] + head[:cut]

            session.native.reorder(buffer, turn)
            assert not any(buffer)
            self.wrote_anew(session.family)
        self.check_others(before)

    @rule(which=pick)
    def save(self, which):
        session = self.chosen(which)
        before = self.others(None)
        key = new_key(32)
        storage = _native.PageStorage(self.keys.native, self.keys.deliver(key))
        pages = [
            storage.seal_page(session.native, index, FILE_HEADER)
            for index in range(session.native.page_count)
        ]
        storage.close()
        for index, page in enumerate(pages):
            writers = session.writers[index * ROWS : (index + 1) * ROWS]
            header = FILE_HEADER + struct.pack("<3I", index, index * ROWS, len(writers))
            nonce = struct.pack("<Q4x", index + 1)
            assert AESGCMSIV(key).decrypt(nonce, page, header) == self.plaintext(writers)
        self.saved = [*self.saved[-2:], Saved(key, pages, list(session.writers), session.tag)]
        self.check_others(before)

    @rule(which=pick, bit=pick, damaged=st.booleans())
    @precondition(lambda self: self.saved and len(self.sessions) < MAX_SESSIONS)
    def resume(self, which, bit, damaged):
        file = self.saved[which % len(self.saved)]
        before = self.others(None)
        session = self.open()
        session.native.adapter_tag = session.tag = file.tag
        storage = _native.PageStorage(self.keys.native, self.keys.deliver(file.key))
        try:
            for index, page in enumerate(file.pages):
                writers = file.writers[index * ROWS : (index + 1) * ROWS]
                self.refuse_damage(storage, session, index, len(writers), page, bit, damaged)
                storage.open_page(session.native, index, len(writers), FILE_HEADER, page)
                session.writers += writers
                session.page_tags.append(file.tag)
                self.records += len(writers) * len(PLACES)
                self.took(session, index * ROWS)
        except RuntimeError as error:
            assert "the KV cache is full" in str(error)
            assert session.native.length == len(session.writers)
        storage.close()
        self.check_others(before)

    def refuse_damage(self, storage, session, index, rows, page, bit, damaged):
        if not damaged:
            return
        changed = bytearray(page)
        changed[bit // 8 % len(page)] ^= 1 << bit % 8
        with pytest.raises(_native.AuthenticationError):
            storage.open_page(session.native, index, rows, FILE_HEADER, bytes(changed))
        assert session.native.length == len(session.writers)

    # ------------------------------------------------------------ after every step

    @invariant()
    def memory_is_what_it_should_be(self):
        self.memory.read()
        for session in self.sessions:
            self.memory.check_contents(session)
        self.memory.check_pages(self.sessions)

    @invariant()
    def the_native_ledger_counted_every_record(self):
        if self.counted is not None:
            assert _counted() - self.counted == self.records


def _counted():
    """What the native ledger counted; None where it is not built."""
    count = getattr(_native, "counted_counters", None)
    return count() if count is not None else None


def run(examples, **more):
    run_state_machine_as_test(
        KvMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_no_counter_repeats_and_no_byte_is_left_over_a_sample_of_schedules():
    run(EXAMPLES // 50, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_counter_repeats_and_no_byte_is_left_over_every_schedule():
    run(EXAMPLES)
