"""The rollback counter: which version of which sealed object is the newest.

The counter grows by one with every object committed or forgotten. Its record names, for each
object, the value at which it was committed and the tag of that very version, and is authenticated
by HMAC-SHA-256. An object is sealed for the *next* value, written first, and committed after; so a
crash in between leaves one object that is exactly one ahead, and that one is taken over.

The record plays the part of replay-protected memory (RPMB), and is a file: who puts back an old
record *and* all objects of that time is not noticed after a restart. docs/tee.md says so.
"""

import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.keys import Key
from tee_sim.memory import Budget
from tee_sim.sealed_format import (
    FORMAT_VERSION,
    MAC_BYTES,
    MAX_OBJECTS,
    RECORD_ENTRY,
    RECORD_HEADER,
    RECORD_MAGIC,
    ObjectHeader,
    record_bytes,
)

_ENTRY_BUDGET_BYTES = 512  # what an entry costs as Python objects


class RollbackCounter:
    """The counter of one device, in the TEE's memory from `start` on; the file is only a copy.

    Security: `key` stays here. Entries are no secrets: they stand in the clear in the record.

    Args:
        key: `keys.counter_key`.
        budget: pays for the entries.
    """

    def __init__(self, key: Key, budget: Budget) -> None:
        self._key = key
        self._budget = budget
        self._entries: dict[bytes, tuple[int, bytes]] = {}
        self._pending: tuple[bytes, bytes] | None = None  # sealed, not committed: (place, tag)
        self._untouched = True  # no change of any object since the start
        self.lineage = b""
        self.value = 0
        self.boots = 0

    @property
    def started(self) -> bool:
        """Whether the record was read (or the first one made)."""
        return self.boots > 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, place: bytes) -> bool:
        return place in self._entries

    def start(self, record: bytes) -> None:
        """Take the stored record, once a start, and count this start.

        Args:
            record: what `record` returned last, or b"" on a device that has none yet.

        Raises:
            TeeError: BAD_STATE when started already, BAD_FORMAT (magic, version), TRUNCATED
                (length), MAC_INVALID (any other change, or another device's record).
        """
        if self.started:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "started already")
        if not record:
            self.lineage, self.boots = os.urandom(16), 1
            return
        if not record.startswith(RECORD_MAGIC[: len(record)]):
            raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "no counter record")
        if len(record) < RECORD_HEADER.size:
            raise TeeError(ResultCode.TRUNCATED, Origin.TRUSTED_APP, "counter record cut short")
        _, version, _, n_entries, lineage, value, boots = RECORD_HEADER.unpack_from(record)
        if version != FORMAT_VERSION:
            raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "unknown record version")
        if n_entries > MAX_OBJECTS or len(record) != record_bytes(n_entries):
            raise TeeError(ResultCode.TRUNCATED, Origin.TRUSTED_APP, "counter record's length")
        body = record[:-MAC_BYTES]
        try:
            self._mac(body).verify(record[-MAC_BYTES:])
        except InvalidSignature:
            raise TeeError(ResultCode.MAC_INVALID, Origin.TRUSTED_APP, "record changed") from None
        with self._budget.keeping(n_entries * _ENTRY_BUDGET_BYTES):
            entries = RECORD_ENTRY.iter_unpack(body[RECORD_HEADER.size :])
            self._entries = {place: (counter, tag) for place, counter, tag in entries}
        self.lineage, self.value, self.boots = lineage, value, boots + 1

    def record(self) -> bytes:
        """Return the record as it should be stored now."""
        self.require_started()
        head = (RECORD_MAGIC, FORMAT_VERSION, 0, len(self), self.lineage, self.value, self.boots)
        entries = (RECORD_ENTRY.pack(place, *rest) for place, rest in sorted(self._entries.items()))
        body = RECORD_HEADER.pack(*head) + b"".join(entries)
        return body + self._mac(body).finalize()

    def sealed(self, place: bytes, tag: bytes) -> None:
        """Note the object that was just sealed for `value + 1`; an earlier note is dropped.

        Args:
            place: application and id of the object, 48 bytes.
            tag: of the sealed object.
        """
        self._pending = (place, tag)

    def commit(self, place: bytes) -> None:
        """Make the object noted by `sealed` the newest version, and the version before it old.

        Raises:
            TeeError: BAD_STATE when another object or none was noted; STORAGE_NO_SPACE beyond
                `MAX_OBJECTS`; OUT_OF_MEMORY.
        """
        if self._pending is None or self._pending[0] != place:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "nothing sealed to commit")
        self._advance(*self._pending)

    def forget(self, place: bytes) -> None:
        """Drop an object: no version of it is accepted any more. Or raise ITEM_NOT_FOUND."""
        if place not in self._entries:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, "no such object")
        del self._entries[place]
        self._budget.refund(_ENTRY_BUDGET_BYTES)
        self._pending = None
        self._untouched = False
        self.value += 1

    def check(self, header: ObjectHeader, tag: bytes) -> None:
        """Accept an authentic object only if it is the newest, or was about to become it.

        Args:
            header: authenticated header of the object.
            tag: its tag, which tells apart two versions sealed for one value of the counter.

        What is one ahead is taken over when nothing else happened since the start, which an
        interrupted write leaves so, or when it is what was sealed last.

        Raises:
            TeeError: ROLLED_BACK for a version older than the newest; COUNTER_ROLLED_BACK for one
                that the counter should know and does not.
        """
        newest, newest_tag = self._entries.get(header.place, (0, b""))
        if header.lineage == self.lineage:
            if (header.counter, tag) == (newest, newest_tag):
                return
            expected = self._untouched or self._pending == (header.place, tag)
            if header.counter == self.value + 1 and expected:
                self._advance(header.place, tag)
                return
            if header.counter <= newest:
                raise TeeError(ResultCode.ROLLED_BACK, Origin.TRUSTED_APP, "an old version")
        raise TeeError(ResultCode.COUNTER_ROLLED_BACK, Origin.TRUSTED_APP, "an old counter")

    def require_started(self) -> None:
        """Raise BAD_STATE before `start`."""
        if not self.started:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "the counter is not started")

    def _advance(self, place: bytes, tag: bytes) -> None:
        new = place not in self._entries
        if new and len(self) >= MAX_OBJECTS:
            raise TeeError(ResultCode.STORAGE_NO_SPACE, Origin.TRUSTED_APP, "too many objects")
        with self._budget.keeping(_ENTRY_BUDGET_BYTES if new else 0):
            self._entries[place] = (self.value + 1, tag)
        self.value += 1
        self._pending = None
        self._untouched = False

    def _mac(self, body: bytes) -> HMAC:
        mac = HMAC(self._key, SHA256())
        mac.update(body)
        return mac
