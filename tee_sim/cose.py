"""COSE_Sign1 messages (RFC 9052, section 4.2) and the identity keys of a device that sign them.

    18([protected, {}, payload, signature])        protected = {1: algorithm, 4: UEID of the device}

Exactly one encoding of a message is accepted, the deterministic one (RFC 8949, section 4.2.1). A
message is taken apart by cutting and compared with its own encoding, so that no CBOR decoder is
given a byte that no known key has signed.

A device's identity is 97 bytes: Ed25519 public key (32), P-256 point, uncompressed (65).
"""

import hashlib
from typing import NamedTuple

import cbor2
import cryptography.hazmat.backends.openssl.backend  # noqa: F401  # keys load it when first used
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tee_sim.errors import EvidenceError
from tee_sim.protocol import Algorithm

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
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


def sign1(key: PrivateKey, key_id: bytes, payload: bytes) -> bytes:
    """Return the encoded message with the signature of `key`."""
    if isinstance(key, Ed25519PrivateKey):
        message = Sign1(Algorithm.EDDSA, key_id, payload)
        return message._replace(signature=key.sign(message.to_be_signed())).encode()
    message = Sign1(Algorithm.ES256, key_id, payload)
    r, s = utils.decode_dss_signature(key.sign(message.to_be_signed(), ec.ECDSA(SHA256())))
    return message._replace(signature=r.to_bytes(32, "big") + s.to_bytes(32, "big")).encode()


def identity_of(eddsa: Ed25519PrivateKey, es256: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public halves of a device's keys, 97 bytes."""
    point = es256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return eddsa.public_key().public_bytes_raw() + point


def public_keys(identity: bytes) -> tuple[Ed25519PublicKey, ec.EllipticCurvePublicKey]:
    """Return the keys of an identity, or raise ValueError if one is none."""
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), identity[32:])
    return Ed25519PublicKey.from_public_bytes(identity[:32]), point


def ueid_of(identity: bytes) -> bytes:
    """Return the name of a device (RFC 9711, section 4.2.1), 33 bytes: type 1, hash of its keys."""
    return b"\x01" + hashlib.sha256(identity).digest()


def check_signature(message: Sign1, identity: bytes) -> None:
    """Raise InvalidSignature unless the identity's key of the message's algorithm signed it."""
    eddsa, es256 = public_keys(identity)
    signed = message.to_be_signed()
    if message.algorithm is Algorithm.EDDSA:
        eddsa.verify(message.signature, signed)
        return
    r, s = (
        int.from_bytes(half, "big") for half in (message.signature[:32], message.signature[32:])
    )
    es256.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))


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
