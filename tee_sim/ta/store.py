"""The `store` trusted application: SEAL and UNSEAL objects, and the counter that dates them.

Files too large for it are sealed by native code of the host, under keys that it derives.

It touches no file. The host's supplicant stores and returns the bytes, as OP-TEE's does; what it
may do with them is told by `tee_sim.counter` and docs/tee.md.
"""

from tee_sim import keys
from tee_sim.device import Device
from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import Budget, wipe
from tee_sim.protocol import NO_VALUES, TA_STORE, ParamType, StoreCommand, Values, param_types
from tee_sim.sealed_format import (
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    SEALED_OVERHEAD_BYTES,
    record_bytes,
)
from tee_sim.storage import SealedStorage, check_length

_VALUE, _OUT = ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT


class StoreApplication:
    """Answers the host's supplicant. An object id is 32 bytes in two value parameters.

    Args:
        budget: counts every byte copied.
        device: gives keys and the counter.
    """

    def __init__(self, budget: Budget, device: Device) -> None:
        self._budget = budget
        self._device = device
        self._counter = device.counter
        self._storage = SealedStorage(device, TA_STORE)
        self.uuid = TA_STORE
        self.epoch = 0
        record = ParamType.MEMREF_OUTPUT
        data = param_types(ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT, _VALUE, _VALUE)
        change = param_types(record, _OUT, _VALUE, _VALUE)
        self.commands: dict[int, tuple[int, Handler]] = {
            StoreCommand.START: (param_types(ParamType.MEMREF_INOUT, _OUT, _VALUE), self._start),
            StoreCommand.SEAL: (data, self._seal),
            StoreCommand.COMMIT: (change, self._commit),
            StoreCommand.UNSEAL: (data, self._unseal),
            StoreCommand.FORGET: (change, self._forget),
            StoreCommand.COUNTER: (param_types(record, _OUT), self._read_counter),
            StoreCommand.FILE_KEY: (param_types(_VALUE, _VALUE), self._file_key),
        }

    def close(self) -> None:
        """Nothing of its own is held; the device wipes the root key."""

    def _start(self, params: Params) -> Values:
        """In/out the record; out (its bytes, counter); in (bytes of the stored one or 0, 0)."""
        shared = params.memory(0)
        size, zero = params.values[4:6]
        if size > len(shared) or zero:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "record")
        _need(shared, record_bytes(0))
        self._counter.start(bytes(shared[: min(size, MAX_RECORD_BYTES + 1)]))  # no record's length
        return self._give_record(shared)

    def _seal(self, params: Params) -> Values:
        """In plaintext; out the sealed object; in the object id.

        Security: the copy of the plaintext is overwritten.
        """
        shared_plain, shared_sealed = params.memory(0), params.memory(1)
        size = len(shared_plain)
        if size > MAX_OBJECT_BYTES:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "the object is too long")
        _need(shared_sealed, size + SEALED_OVERHEAD_BYTES)
        charge = 2 * size + SEALED_OVERHEAD_BYTES
        self._budget.charge(charge)
        try:
            plain = bytearray(shared_plain)
            header, sealed = self._storage.seal(_object_id(params), plain)
            shared_sealed[: len(header)] = header
            shared_sealed[len(header) : len(header) + len(sealed)] = sealed
            wipe(plain)
        finally:
            self._budget.refund(charge)
        return NO_VALUES

    def _unseal(self, params: Params) -> Values:
        """In the sealed object; out the plaintext; in the object id.

        Security: the plaintext is written only when all checks have passed. OpenSSL's copy of it
        is freed, not overwritten.
        """
        shared_sealed, shared_plain = params.memory(0), params.memory(1)
        size = len(shared_sealed)
        if size > MAX_OBJECT_BYTES + SEALED_OVERHEAD_BYTES:
            raise TeeError(ResultCode.TRUNCATED, Origin.TRUSTED_APP, "longer than any object")
        self._budget.charge(2 * size)
        try:
            sealed = bytearray(shared_sealed)
            if sealed:
                _need(shared_plain, check_length(sealed).plain_bytes)
            plain = self._storage.unseal(_object_id(params), sealed)
            shared_plain[: len(plain)] = plain
        finally:
            self._budget.refund(2 * size)
        return NO_VALUES

    def _commit(self, params: Params) -> Values:
        """Out the record; out (its bytes, counter); in the object id: it was stored durably."""
        shared, object_id = params.memory(0), _object_id(params)
        _need(shared, record_bytes(len(self._counter) + (not self._storage.knows(object_id))))
        self._storage.commit(object_id)
        return self._give_record(shared)

    def _forget(self, params: Params) -> Values:
        """Out the record; out (its bytes, counter); in the object id: it was removed."""
        shared = params.memory(0)
        _need(shared, record_bytes(len(self._counter)))
        self._storage.forget(_object_id(params))
        return self._give_record(shared)

    def _read_counter(self, params: Params) -> Values:
        """Out the record; out (its bytes, counter)."""
        shared = params.memory(0)
        _need(shared, record_bytes(len(self._counter)))
        return self._give_record(shared)

    def _file_key(self, params: Params) -> Values:
        """In (arena id, offset), (file id): 16 bytes, little-endian.

        Security: the 32-byte key goes into the arena and nowhere else.
        """
        self._counter.require_started()
        file_id = b"".join(value.to_bytes(8, "little") for value in params.values[2:4])
        secret = keys.sealed_file_key(self._device.root_key, TA_STORE, file_id)
        arena_id, offset = params.values[:2]
        params.write_arena_secret(arena_id, offset, secret)
        return NO_VALUES

    def _give_record(self, shared: memoryview) -> Values:
        record = self._counter.record()
        shared[: len(record)] = record
        return (0, 0, len(record), self._counter.value, 0, 0, 0, 0)


def _object_id(params: Params) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in params.values[4:])


def _need(shared: memoryview, n_bytes: int) -> None:
    """Refuse memory too small for the answer before anything has changed."""
    if len(shared) < n_bytes:
        raise TeeError(ResultCode.SHORT_BUFFER, Origin.TRUSTED_APP, f"{n_bytes} bytes needed")
