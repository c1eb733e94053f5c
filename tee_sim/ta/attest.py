"""The `attest` trusted application: GET_EVIDENCE, what this TEE is and how it stands, signed."""

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tee_sim import keys
from tee_sim.audit import AuditLog
from tee_sim.cose import identity_of, sign1, ueid_of
from tee_sim.device import Device, draw_key
from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.evidence import DEBUG_STATES, NONCE_BYTES, Evidence
from tee_sim.memory import wipe
from tee_sim.protocol import GET_EVIDENCE_TYPES, TA_ATTEST, Algorithm, AttestCommand, Values


class AttestApplication:
    """Signs what the TEE knows of itself with the device's identity keys.

    Security: identity keys are derived for each call and not kept. The private half of the HPKE key
    stands in the secret memory, and ends with the process.

    Args:
        device: gives identity, epoch and counter.
        audit: the log whose head is attested.
        measurement: of this process's software, 32 bytes.
    """

    def __init__(self, device: Device, audit: AuditLog, measurement: bytes) -> None:
        self._device = device
        self._audit = audit
        self._measurement = measurement
        drawn = draw_key()
        hpke_key = X25519PrivateKey.from_private_bytes(drawn)
        self._hpke_public = hpke_key.public_key().public_bytes_raw()
        self._hpke_key = device.secrets.keep(drawn)
        self.uuid = TA_ATTEST
        self.epoch = 0
        self.commands: dict[int, tuple[int, Handler]] = {
            AttestCommand.GET_EVIDENCE: (GET_EVIDENCE_TYPES, self._get_evidence),
        }

    def close(self) -> None:
        """Overwrite the HPKE key."""
        self._hpke_key.drop()

    def _get_evidence(self, params: Params) -> Values:
        nonce, shared = bytes(params.memory(0)), params.memory(1)
        algorithm, unused = params.values[4:6]
        if len(nonce) not in NONCE_BYTES or -algorithm not in set(Algorithm) or unused:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "nonce or algorithm")
        device, counter = self._device, self._device.counter
        device.require_started()
        seed = keys.identity_seed(device.root_key)
        eddsa = Ed25519PrivateKey.from_private_bytes(seed)
        wipe(seed)
        es256 = derive_private_key(keys.identity_scalar(device.root_key), SECP256R1())
        identity = identity_of(eddsa, es256)
        ueid = ueid_of(identity)
        debug, hardening, arena = params.standing()
        evidence = Evidence(
            *(nonce, ueid, identity, DEBUG_STATES[debug], counter.boots, self._measurement),
            *(self._hpke_public, arena, device.epoch, counter.value, hardening),
            *self._audit.tail(0)[1:],
        )
        key = es256 if -algorithm == Algorithm.ES256 else eddsa
        token = sign1(key, ueid, evidence.encode())
        if len(shared) < len(token):
            raise TeeError(ResultCode.SHORT_BUFFER, Origin.TRUSTED_APP, "no room", len(token))
        shared[: len(token)] = token
        return (0, 0, 0, 0, len(token), 0, 0, 0)
