"""What both TEEs seal with: keys by HKDF-Expand (RFC 5869), AES-256-GCM-SIV (RFC 8452)."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import wipe


def expand(key: bytes | bytearray | memoryview, label: bytes, length: int = 32) -> bytearray:
    """Derive a key for one purpose from a uniform one of 32 bytes.

    Security: a byte array of its own, for the caller to overwrite.
    """
    derived = bytearray(length)
    HKDFExpand(algorithm=SHA256(), length=length, info=label).derive_into(key, derived)
    return derived


def gcm_siv(key: bytearray) -> AESGCMSIV:
    """Return the cipher of a key of 32 bytes, which is overwritten.

    Raises:
        TeeError: NOT_SUPPORTED: OpenSSL before 3.2.
    """
    try:
        return AESGCMSIV(key)
    except UnsupportedAlgorithm:
        raise TeeError(ResultCode.NOT_SUPPORTED, Origin.TRUSTED_APP, "GCM-SIV") from None
    finally:
        wipe(key)
