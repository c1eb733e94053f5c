"""The client's call on the `attest` application: evidence of what a device is and how it stands."""

from tee_sim.caller import Caller
from tee_sim.protocol import GET_EVIDENCE_TYPES, TA_ATTEST, Algorithm, AttestCommand, memref

_ROOM_BYTES = 1024  # a token has about 600


class AttestCalls(Caller):
    """What `TeeClient` offers of the core's `attest` application."""

    def evidence(
        self, nonce: bytes, algorithm: Algorithm = Algorithm.EDDSA, room_bytes: int = _ROOM_BYTES
    ) -> bytes:
        """Return a signed token for a verifier's nonce (role "core"); see `tee_sim.verify`.

        Args:
            nonce: 8 to 64 bytes that the verifier drew.
            algorithm: of the signature.
            room_bytes: longest token that is taken.

        Raises:
            TeeError: BAD_PARAMETERS for a nonce of another length; BAD_STATE on a device with fuses
                before its counter was started; SHORT_BUFFER, with `needed_bytes`.
        """
        size = len(nonce)
        session = self._session_with(TA_ATTEST)
        with self._channel.lock:
            window = self._shared_window(size + room_bytes)
            window.buffer[:size] = nonce
            places = (*memref(window.id, 0, size), *memref(window.id, size, room_bytes))
            values = (*places, -algorithm, 0, 0, 0)
            command = AttestCommand.GET_EVIDENCE
            n_bytes = self._invoke(command, GET_EVIDENCE_TYPES, values, session)[4]
            return bytes(window.buffer[size : size + n_bytes])
