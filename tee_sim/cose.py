"""COSE_Sign1 messages (RFC 9052, section 4.2) and the identity keys of a device that sign them.

    18([protected, {}, payload, signature])        protected = {1: algorithm, 4: UEID of the device}

Exactly one encoding of a message is accepted, the deterministic one (RFC 8949, section 4.2.1). A
message is taken apart by cutting and compared with its own encoding, so that no CBOR decoder is
given a byte that no known key has signed.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import cbor2
import cryptography.hazmat.backends.openssl.backend  # noqa: F401  # keys load it when first used
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tee_sim.errors import EvidenceError
from tee_sim.protocol import Algorithm

UEID_BYTES = 33
_EDDSA_BYTES = 32
IDENTITY_BYTES = _EDDSA_BYTES + 65  # Ed25519 key, P-256 point
_HALF_BYTES = 32  # of a signature: R and S, or r and s
_ALGORITHM, _KEY_ID, _SIGN1_TAG = 1, 4, 18


class Sign1(NamedTuple):
    """The parts of a message; nothing about them is verified."""

    algorithm: Algorithm
    key_id: bytes
    payload: bytes
    signature: bytes = b""

    def encode(self) -> bytes:
        """The message."""
        parts = [self._protected(), {}, self.payload, self.signature]
        return cbor2.dumps(cbor2.CBORTag(_SIGN1_TAG, parts))

    def to_be_signed(self) -> bytes:
        """The encoded Sig_structure (RFC 9052, section 4.4)."""
        return cbor2.dumps(["Signature1", self._protected(), b"", self.payload])

    def _protected(self) -> bytes:
        return cbor2.dumps({_ALGORITHM: int(self.algorithm), _KEY_ID: self.key_id})


def sign1(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, key_id: bytes, payload: bytes
) -> bytes:
    """Return the encoded message with the signature of `key`."""
    if isinstance(key, Ed25519PrivateKey):
        message = Sign1(Algorithm.EDDSA, key_id, payload)
        return message._replace(signature=key.sign(message.to_be_signed())).encode()
    message = Sign1(Algorithm.ES256, key_id, payload)
    # RFC 6979: no random number whose failure would disclose the key.
    ecdsa = ec.ECDSA(SHA256(), deterministic_signing=True)
    halves = utils.decode_dss_signature(key.sign(message.to_be_signed(), ecdsa))
    signature = b"".join(half.to_bytes(_HALF_BYTES, "big") for half in halves)
    return message._replace(signature=signature).encode()


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The public keys of a device: what a verifier has of it from its enrolment.

    Args:
        identity: Ed25519 key, 32 bytes, and P-256 point, uncompressed, 65 bytes.

    Raises:
        ValueError: one is no key.
    """

    identity: bytes

    def __post_init__(self) -> None:
        self._eddsa()
        self._es256()

    @property
    def ueid(self) -> bytes:
        """Name of the device (RFC 9711, section 4.2.1): type 1, and a hash of its keys."""
        return b"\x01" + hashlib.sha256(self.identity).digest()

    def check(self, message: Sign1) -> None:
        """Raise InvalidSignature unless the key of the message's algorithm has signed it."""
        signature, signed = message.signature, message.to_be_signed()
        if message.algorithm is Algorithm.EDDSA:
            self._eddsa().verify(signature, signed)
            return
        halves = (signature[:_HALF_BYTES], signature[_HALF_BYTES:])
        encoded = utils.encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
        self._es256().verify(encoded, signed, ec.ECDSA(SHA256()))

    def _eddsa(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.identity[:_EDDSA_BYTES])

    def _es256(self) -> ec.EllipticCurvePublicKey:
        point = self.identity[_EDDSA_BYTES:]
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def identity_of(eddsa: Ed25519PrivateKey, es256: ec.EllipticCurvePrivateKey) -> DeviceKeys:
    """Return the public keys of two private ones."""
    point = es256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return DeviceKeys(eddsa.public_key().public_bytes_raw() + point)


def read_sign1(token: bytes) -> Sign1:
    """Take a message apart; its parts stand at fixed places, for payloads of 256 to 65,535 bytes.

    Raises:
        EvidenceError: "malformed", it is not the encoding of a message, to the byte.
    """
    try:
        algorithm = Algorithm(31 - token[6])  # 0x26 is -7, 0x27 is -8
    except (IndexError, ValueError):
        raise EvidenceError("malformed", "no COSE_Sign1 message of a device") from None
    message = Sign1(algorithm, token[10:43], token[47:-66], token[-64:])
    if message.encode() != token:
        raise EvidenceError("malformed", "not the encoding of a COSE_Sign1 message")
    return message
