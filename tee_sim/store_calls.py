"""The client's calls on the `store` application: bytes in, sealed bytes out, no file touched.

Order of a write: `seal`, store the object durably, `commit`, store the record durably. What keeps
to it is a supplicant; `ptmo_secure.sealed` has one.
"""

import struct

from tee_sim.caller import Caller
from tee_sim.channel import Channel
from tee_sim.errors import ResultCode, TeeError
from tee_sim.protocol import NO_VALUES, ParamType, StoreCommand, Values, memref, param_types
from tee_sim.sealed_format import (
    MAX_RECORD_BYTES,
    OBJECT_ID_BYTES,
    RECORD_ENTRY,
    RECORD_HEADER,
    SEALED_OVERHEAD_BYTES,
    CounterState,
    object_header,
    record_bytes,
)

_IN, _OUT = ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT
_START = param_types(ParamType.MEMREF_INOUT, _OUT, _IN)
_DATA = param_types(ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT, _IN, _IN)
_CHANGE = param_types(ParamType.MEMREF_OUTPUT, _OUT, _IN, _IN)
_COUNTER = param_types(ParamType.MEMREF_OUTPUT, _OUT)
_FILE_KEY = param_types(_IN, _IN)
_NO_ID = (0, 0, 0, 0)


class StoreCalls(Caller):
    """A session with the `store` application; made by `TeeClient.open_store`.

    Every method raises `TeeError` with the code of the check that failed; docs/tee.md lists them.

    Security: plaintext crosses in shared memory that is wiped before a method returns.
    """

    def __init__(self, channel: Channel, session: int) -> None:
        """Use `TeeClient.open_store`."""
        super().__init__(channel, session)
        self._value = 0  # of the counter, in the record returned last
        self._record_bytes = record_bytes(1)  # room for the next record

    def start(self, record: bytes) -> bytes:
        """Give the TEE the counter's stored record, once, before anything else.

        Args:
            record: the record stored last; b"" on a device that has none.

        Returns:
            The record with this start counted, to be stored before an epoch is drawn.
        """
        return self._record(StoreCommand.START, _START, (len(record), 0, 0, 0), record)

    def seal(self, object_id: bytes, plain: bytes) -> bytes:
        """Seal the next version of an object; it is the newest from `commit` on.

        Args:
            object_id: 32 bytes.
            plain: up to 8 MiB.
        """
        size = len(plain) + SEALED_OVERHEAD_BYTES
        return self._transform(StoreCommand.SEAL, object_id, plain, size)

    def commit(self, object_id: bytes) -> bytes:
        """Say that what `seal` returned last is stored; return the record, to be stored next."""
        return self._record(StoreCommand.COMMIT, _CHANGE, _id_values(object_id))

    def unseal(self, object_id: bytes, sealed: bytes) -> bytes:
        """Return the plaintext of the newest version of an object.

        Args:
            object_id: 32 bytes.
            sealed: its stored bytes; b"" asks whether there should be any.
        """
        size = max(0, len(sealed) - SEALED_OVERHEAD_BYTES)
        return self._transform(StoreCommand.UNSEAL, object_id, sealed, size)

    def forget(self, object_id: bytes) -> bytes:
        """Have no version of an object accepted any more; return the record, to be stored."""
        return self._record(StoreCommand.FORGET, _CHANGE, _id_values(object_id))

    def counter(self) -> bytes:
        """Return the record as it should be stored now."""
        return self._record(StoreCommand.COUNTER, _COUNTER, _NO_ID)

    def file_key(self, arena_id: int, offset: int, file_id: bytes) -> None:
        """Have the TEE write the 32-byte key of a sealed file into the arena at `offset`.

        Security: as `TeeClient.storage_key`; the same id gives the same key on this device.

        Args:
            arena_id, offset: where to.
            file_id: 16 bytes, drawn anew for every file.
        """
        words = struct.unpack("<2Q", file_id)
        self._invoke(StoreCommand.FILE_KEY, _FILE_KEY, (arena_id, offset, *words, *NO_VALUES[4:]))

    def state(self) -> CounterState:
        """Return where the device's counter stands."""
        _, _, _, objects, _, value, boots = RECORD_HEADER.unpack_from(self.counter())
        return CounterState(value, boots, objects)

    def _transform(
        self, command: StoreCommand, object_id: bytes, data: bytes, result_bytes: int
    ) -> bytes:
        size = len(data)
        with self._channel.lock:
            window = self._shared_window(size + result_bytes)
            try:
                window.buffer[:size] = data
                places = (*memref(window.id, 0, size), *memref(window.id, size, result_bytes))
                self._invoke(command, _DATA, (*places, *_id_values(object_id)))
                return bytes(window.buffer[size : size + result_bytes])
            finally:
                window.wipe(size + result_bytes)

    def is_newer(self, sealed: bytes) -> bool:
        """Whether a stored object says that it is ahead of the last record this class returned.

        Args:
            sealed: the object, or its first 104 bytes or more; nothing about it is authenticated.
        """
        header = object_header(sealed)
        return header is not None and header.counter > self._value

    def _record(
        self, command: StoreCommand, types: int, values: Values, record: bytes = b""
    ) -> bytes:
        with self._channel.lock:
            try:
                return self._record_of(command, types, values, record, self._record_bytes)
            except TeeError as error:
                if error.code != ResultCode.SHORT_BUFFER:
                    raise
            return self._record_of(command, types, values, record, MAX_RECORD_BYTES)

    def _record_of(
        self, command: StoreCommand, types: int, values: Values, record: bytes, room: int
    ) -> bytes:
        size = max(room, len(record))
        window = self._shared_window(size)
        window.buffer[: len(record)] = record
        place = memref(window.id, 0, size)
        replied = self._invoke(command, types, (*place, *NO_VALUES[:2], *values))
        n_bytes, self._value = replied[2:4]
        self._record_bytes = n_bytes + RECORD_ENTRY.size
        return bytes(window.buffer[:n_bytes])


def _id_values(object_id: bytes) -> Values:
    if len(object_id) != OBJECT_ID_BYTES:
        raise ValueError(f"object id of {len(object_id)} bytes, expected {OBJECT_ID_BYTES}")
    return struct.unpack("<4Q", object_id)
