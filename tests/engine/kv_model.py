"""What a family of native KV sessions must look like in memory, computed from outside.

The test plays the TEE: it writes keys into the secret arena and so can open every page itself. It
shares no code with the engine: counter blocks, page offsets and AES are written out here.
"""

import ctypes
import hashlib
import itertools
import mmap
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ptmo_secure import _native

SLOT_BYTES = 256
LAYERS, HEADS, DIM, ROWS = 2, 2, 16, 16
HEADER = struct.Struct("<IHHIIIIIIQ24s")
NUMBERS_AT, TILES_AT = 64, 64 + 8 * ROWS
TILE = ROWS * DIM
HEAD_BYTES = 2 * TILE + 8 * ROWS
KINDS = ((0, 0, DIM), (1, TILE, DIM), (2, 2 * TILE, 8))  # stream kind, offset in a head, bytes
PLACES = [
    (layer, kind << 14 | head, TILES_AT + (layer * HEADS + head) * HEAD_BYTES + offset, size)
    for layer in range(LAYERS)
    for head in range(HEADS)
    for kind, offset, size in KINDS
]
_key_numbers = itertools.count()


def new_key(size):
    """A key no session of this process has had."""
    return hashlib.sha256(b"key %d" % next(_key_numbers)).digest()[:size]


def record(writer, layer, stream, size):
    """What the row that is `writer`'s holds at one place: never twice the same, never zero."""
    text = b"%d %d %d" % (writer, layer, stream)
    if size == 8:
        low = hashlib.sha256(text).digest()
        return struct.pack("<2f", 0.5 + low[0], 1.5 + int.from_bytes(low[1:3], "little"))
    return bytes(b | 1 for b in hashlib.sha256(text).digest()[:size])


def keystream(key, blocks):
    """AES-128 of the counter blocks (seq, layer, stream), 16 bytes each."""
    text = b"".join(struct.pack(">QHHI", *block, 0) for block in blocks)
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return cipher.update(text) + cipher.finalize()


class KeyArena:
    """A secret arena the test writes keys into, as the TEE does."""

    def __init__(self):
        self.native = _native.SecretArena(1 << 15)
        self._map = mmap.mmap(self.native.fd, self.native.size)

    def deliver(self, key):
        slot = self.native.take_slot()
        self._map[slot : slot + len(key)] = key
        return slot

    def is_zero(self, slot=None):
        """Whether nothing is left in a slot, or in all of them."""
        return not any(self._map[:] if slot is None else self._map[slot : slot + SLOT_BYTES])

    def close(self):
        self._map.close()


@dataclass
class Family:
    """What forks share."""

    id: int
    epoch: int
    key: bytes
    slot: int = 0  # of the key, in the arena
    numbers: set = field(default_factory=set)  # every sequence number ever given out
    ciphertexts: dict = field(default_factory=dict)  # (seq, layer, stream) -> the only ciphertext


@dataclass
class Tracked:
    """A session and the rows it should have: one writer number each."""

    id: int
    native: _native.KvSession
    family: Family
    writers: list = field(default_factory=list)
    tag: int = 0
    page_tags: list = field(default_factory=list)  # of the newest row of each page

    def pages(self):
        """(index, page id, rows in use) of every page."""
        for index, page in enumerate(self.native.page_ids):
            yield index, page, min(ROWS, len(self.writers) - index * ROWS)


class Memory:
    """The page arena as an attacker reads it: raw bytes at its addresses."""

    def __init__(self, capacity):
        layout = _native.PageLayout(LAYERS, HEADS, DIM, ROWS, _native.KvType.int8)
        assert layout.data_offset == TILES_AT and layout.head_bytes == HEAD_BYTES
        self.layout, self.capacity, self.size = layout, capacity, layout.page_bytes
        self.arena = _native.PageArena(layout, capacity)
        probe = _native.KvSession(self.arena, 0)
        probe.append(1)
        assert probe.page_ids == [0]
        self.base = self.arena.addresses()[0]
        probe.close()
        self.raw = b""

    def read(self):
        """Take a new picture of every page, free ones too."""
        self.raw = ctypes.string_at(self.base, self.capacity * self.size)

    def page(self, page):
        return self.raw[page * self.size : (page + 1) * self.size]

    def rows_of(self, session):
        """The bytes of a session's rows, sequence numbers included: [(seq, records)]."""
        out = []
        for _, page, used in session.pages():
            raw = self.page(page)
            for row in range(used):
                (seq,) = struct.unpack_from("<Q", raw, NUMBERS_AT + 8 * row)
                records = [raw[at + row * size : at + (row + 1) * size] for *_, at, size in PLACES]
                out.append((seq, records))
        return out

    def check_contents(self, session):
        """Every row of the session decrypts to what was written, under its family's key."""
        rows = self.rows_of(session)
        assert len(rows) == len(session.writers) == session.native.length
        blocks = [(seq, layer, stream) for seq, _ in rows for layer, stream, *_ in PLACES]
        stream = keystream(session.family.key, blocks)
        at = 0
        for writer, (seq, records) in zip(session.writers, rows, strict=True):
            for (layer, stream_id, _, size), sealed in zip(PLACES, records, strict=True):
                plain = bytes(a ^ b for a, b in zip(sealed, stream[at : at + size], strict=True))
                assert plain == record(writer, layer, stream_id, size)
                known = session.family.ciphertexts.setdefault((seq, layer, stream_id), sealed)
                assert known == sealed, f"counter {seq} of layer {layer} sealed two records"
                at += 16

    def check_pages(self, sessions):
        """Headers tell the truth, unused rows and free pages are zero, nothing leaks."""
        users = {}
        for session in sessions:
            for index, page, used in session.pages():
                users.setdefault(page, []).append((session, index, used))
        for page in range(self.capacity):
            raw = self.page(page)
            if page not in users:
                assert not any(raw), f"free page {page} is not zero"
                continue
            self._check_page(page, raw, users[page])
        assert len(self.arena.addresses()) == len(users)

    def _check_page(self, page, raw, users):
        family = users[0][0].family
        index, used = users[0][1], max(rows for _, _, rows in users)
        assert all(s.family is family and i == index for s, i, _ in users)
        assert len({s.page_tags[index] for s, _, _ in users}) == 1  # shared under equal sets only
        header = HEADER.unpack_from(raw)
        assert header[:4] == (0x4750564B, 2, ROWS, page)
        assert header[4] in {s.id for s, _, _ in users}
        assert header[5:9] == (family.epoch, used, index * ROWS, family.id)
        assert header[9:] == (users[0][0].page_tags[index], bytes(24))
        assert not any(raw[NUMBERS_AT + 8 * used : TILES_AT])
        for *_, at, size in PLACES:
            assert not any(raw[at + used * size : at + ROWS * size])
