"""Sealed objects of one trusted application: AES-256-GCM-SIV, bound to the rollback counter.

GCM-SIV (RFC 8452) and not GCM: a nonce that repeats, as after a restored machine image, discloses
no more than that two objects are equal.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from tee_sim import keys
from tee_sim.device import Device
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.sealed_format import (
    FORMAT_VERSION,
    MAX_OBJECT_BYTES,
    NONCE_BYTES,
    OBJECT_HEADER,
    OBJECT_MAGIC,
    SEALED_OVERHEAD_BYTES,
    TAG_BYTES,
    ObjectHeader,
    object_header,
)
from tee_sim.sealing import gcm_siv


class SealedStorage:
    """Seals and opens the objects of the application `uuid`.

    Security: the key is derived for each call and not kept. A sealed object shows its application,
    id, length and place in time, and nothing of its content.

    Args:
        device: gives the key and the counter.
        uuid: of the application, (high, low) u64.
    """

    def __init__(self, device: Device, uuid: tuple[int, int]) -> None:
        self._device = device
        self._uuid = uuid
        self._counter = device.counter
        self._application = b"".join(half.to_bytes(8, "big") for half in uuid)

    def seal(self, object_id: bytes, plain: bytes | bytearray) -> tuple[bytes, bytes]:
        """Seal the next version of an object; it is the newest once `commit` was called.

        Args:
            object_id: 32 bytes.
            plain: up to `MAX_OBJECT_BYTES`.

        Returns:
            (header, ciphertext and tag): one after the other they are the sealed object.

        Raises:
            TeeError: BAD_STATE before the counter was started; BAD_PARAMETERS when it is too long.
        """
        counter = self._counter
        counter.require_started()
        if len(plain) > MAX_OBJECT_BYTES:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "the object is too long")
        nonce = os.urandom(NONCE_BYTES)
        header = OBJECT_HEADER.pack(
            *(OBJECT_MAGIC, FORMAT_VERSION, 0, self._application, object_id),
            *(counter.lineage, counter.value + 1, len(plain), nonce),
        )
        sealed = self._cipher().encrypt(nonce, plain, header)
        counter.sealed(self._application + object_id, sealed[-TAG_BYTES:])
        return header, sealed

    def unseal(self, object_id: bytes, sealed: bytes | bytearray) -> bytes:
        """Open the newest version of an object.

        A version that is exactly one ahead of the counter was written before a crash and not
        committed: the counter is advanced to it, and its record has to be stored again.

        Raises:
            TeeError: naming by its code what is wrong with the object, in this order.
                BAD_STATE: the counter was not started. ITEM_NOT_FOUND: it is empty, and no such
                object is known. TRUNCATED: not of the length its header says, or empty although
                the object is known. BAD_FORMAT: another magic or version. MAC_INVALID: any other
                change, or another device's. WRONG_OBJECT: authentic, but of another application
                or id. ROLLED_BACK, COUNTER_ROLLED_BACK: see `RollbackCounter.check`.
        """
        self._counter.require_started()
        if not sealed and not self.knows(object_id):
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, "no such object")
        header = check_length(sealed)
        with memoryview(sealed) as view:
            try:
                plain = self._cipher().decrypt(
                    header.nonce, view[OBJECT_HEADER.size :], view[: OBJECT_HEADER.size]
                )
            except InvalidTag:
                raise TeeError(ResultCode.MAC_INVALID, Origin.TRUSTED_APP, "changed") from None
        if (header.application, header.object_id) != (self._application, object_id):
            raise TeeError(ResultCode.WRONG_OBJECT, Origin.TRUSTED_APP, "another object's")
        self._counter.check(header, bytes(sealed[-TAG_BYTES:]))
        return plain

    def knows(self, object_id: bytes) -> bool:
        """Whether a version of an object was committed and not forgotten."""
        return self._application + object_id in self._counter

    def commit(self, object_id: bytes) -> None:
        """Make what `seal` returned last the newest version. Raises as `RollbackCounter.commit`."""
        self._counter.commit(self._application + object_id)

    def forget(self, object_id: bytes) -> None:
        """Drop an object. Raises as `RollbackCounter.forget`."""
        self._counter.forget(self._application + object_id)

    def _cipher(self) -> AESGCMSIV:
        return gcm_siv(keys.sealed_objects_key(self._device.root_key, self._uuid))


def check_length(sealed: bytes | bytearray) -> ObjectHeader:
    """Return the header of a sealed object that has the length and version it says.

    Raises:
        TeeError: TRUNCATED or BAD_FORMAT.
    """
    if bytes(sealed[: len(OBJECT_MAGIC)]) != OBJECT_MAGIC[: len(sealed)]:
        raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "no sealed object")
    if len(sealed) < SEALED_OVERHEAD_BYTES:
        raise TeeError(ResultCode.TRUNCATED, Origin.TRUSTED_APP, "cut short")
    header = object_header(sealed)
    if header is None:
        raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "unknown version")
    if header.plain_bytes != len(sealed) - SEALED_OVERHEAD_BYTES:
        raise TeeError(ResultCode.TRUNCATED, Origin.TRUSTED_APP, "another length")
    return header
