"""The key tree: pure functions from the root key down, one HKDF label per purpose.

    root (HUK) -> SSK -> TSK(trusted application) -> epoch key(n) -> permutation key
                                                                  -> session seal key
                                            -> key of a saved session
                                            -> key of sealed objects
                                            -> key of a sealed file
                      -> key of the rollback counter
                      -> identity keys, which sign evidence

HKDF is RFC 5869 with SHA-256. The root goes through extract-and-expand once; below it every parent
is a uniform 32-byte key, so expand alone is used (RFC 5869, section 3.3). A label is never used
for two purposes, and integers in labels have a fixed width, so two inputs never give one label.

Every function returns a byte array of its own, for its caller to overwrite; those in between are
overwritten here.
"""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tee_sim.memory import wipe
from tee_sim.protocol import TA_KV
from tee_sim.sealing import expand

Key = bytes | bytearray | memoryview
ROOT_KEY_BYTES = 32
SEAL_KEY_BYTES = 16

_SALT = b"ptmo-secure/tee/v1"
_LABEL_SSK = b"ptmo/v1/ssk"
_LABEL_TSK = b"ptmo/v1/tsk/"
_LABEL_EPOCH = b"ptmo/v1/epoch/"
_LABEL_BOOT_EPOCH = b"ptmo/v1/boot-epoch/"
_LABEL_PAIRS = b"ptmo/v1/permutation/rotary-pairs/"
_LABEL_VALUES = b"ptmo/v1/permutation/values/"
_LABEL_SEAL = b"ptmo/v1/seal/"
_LABEL_SAVED = b"ptmo/v1/saved-session/"
_LABEL_OBJECTS = b"ptmo/v1/sealed-objects"
_LABEL_FILE = b"ptmo/v1/sealed-file/"
_LABEL_COUNTER = b"ptmo/v1/rollback-counter"
_LABEL_ED25519 = b"ptmo/v1/identity/ed25519"
_LABEL_P256 = b"ptmo/v1/identity/p-256"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BOOT_SEED_BYTES = 16
MODEL_DIGEST_BYTES = 32
FILE_ID_BYTES = 16


def _expand_once(parent: bytearray, label: bytes, length: int = 32) -> bytearray:
    """Expand a key that was derived for this alone, and overwrite it."""
    try:
        return expand(parent, label, length)
    finally:
        wipe(parent)


def storage_key(root_key: Key) -> bytearray:
    """Derive the SSK, the parent of every trusted application's key.

    Security: 32 secret bytes; stays in the TEE.

    Args:
        root_key: the simulated hardware unique key, 32 bytes.
    """
    if len(root_key) != ROOT_KEY_BYTES:
        raise ValueError(f"root key of {len(root_key)} bytes, expected {ROOT_KEY_BYTES}")
    derived = bytearray(32)
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=_SALT, info=_LABEL_SSK)
    hkdf.derive_into(root_key, derived)
    return derived


def application_key(root_key: Key, uuid: tuple[int, int]) -> bytearray:
    """Derive the TSK of the trusted application `uuid` (high and low u64).

    Security: 32 secret bytes; two applications' keys are independent.
    """
    label = _LABEL_TSK + uuid[0].to_bytes(8, "big") + uuid[1].to_bytes(8, "big")
    return _expand_once(storage_key(root_key), label)


def epoch_key(root_key: Key, epoch: int, boot_seed: bytes = b"") -> bytearray:
    """Derive the `kv` application's key of one epoch.

    Security: 32 secret bytes; one epoch's key tells nothing about another's. A root key that
    outlives the process needs a seed: who rolls the counter file back makes epoch numbers repeat,
    and a repeated key would repeat a keystream.

    Args:
        root_key: 32 bytes.
        epoch: number drawn by open_model or new_epoch, 0 <= epoch < 2**64, never reused.
        boot_seed: 16 bytes drawn at this start, or none where the root key was drawn with it.
    """
    if len(boot_seed) not in (0, BOOT_SEED_BYTES):
        raise ValueError(f"boot seed of {len(boot_seed)} bytes, expected 0 or {BOOT_SEED_BYTES}")
    label = (_LABEL_BOOT_EPOCH if boot_seed else _LABEL_EPOCH) + epoch.to_bytes(8, "big")
    return _expand_once(application_key(root_key, TA_KV), label + boot_seed)


def pair_permutation_key(key_of_epoch: Key, layer: int, kv_head: int) -> bytearray:
    """Derive the PRF key of the rotary-pair permutation of one layer and kv head.

    Security: 32 secret bytes; whoever holds them holds that permutation.
    """
    return expand(
        key_of_epoch, _LABEL_PAIRS + layer.to_bytes(4, "big") + kv_head.to_bytes(4, "big")
    )


def value_permutation_key(key_of_epoch: Key, layer: int, kv_head: int) -> bytearray:
    """Derive the PRF key of the value permutation of one layer and kv head.

    Security: 32 secret bytes; whoever holds them holds that permutation.
    """
    return expand(
        key_of_epoch, _LABEL_VALUES + layer.to_bytes(4, "big") + kv_head.to_bytes(4, "big")
    )


def seal_key(key_of_epoch: Key, session: int) -> bytearray:
    """Derive the AES-128 key that seals one session's KV pages during one epoch.

    Security: 16 secret bytes; the TEE writes them into the engine's secret arena and keeps none.

    Args:
        key_of_epoch: `epoch_key` of the epoch drawn for the session.
        session: session handle, 0 <= session < 2**64.
    """
    return expand(key_of_epoch, _LABEL_SEAL + session.to_bytes(8, "big"), SEAL_KEY_BYTES)


def saved_session_key(root_key: Key, model_digest: bytes, file_id: bytes) -> bytearray:
    """Derive the AES-256 key that seals one saved session, of one model file.

    Security: 32 secret bytes; the same root opens the file again. Every file has a key of its own,
    so its records' numbers serve as nonces.

    Args:
        root_key: 32 bytes.
        model_digest: SHA-256 of the model file.
        file_id: 16 bytes drawn for the saved file.
    """
    if len(model_digest) != MODEL_DIGEST_BYTES or len(file_id) != FILE_ID_BYTES:
        raise ValueError(f"digest of {len(model_digest)}, file id of {len(file_id)} bytes")
    return _expand_once(application_key(root_key, TA_KV), _LABEL_SAVED + model_digest + file_id)


def sealed_objects_key(root_key: Key, uuid: tuple[int, int]) -> bytearray:
    """Derive the AES-256 key that seals the objects of the trusted application `uuid`.

    Security: 32 secret bytes; one application cannot open what another sealed.
    """
    return _expand_once(application_key(root_key, uuid), _LABEL_OBJECTS)


def sealed_file_key(root_key: Key, uuid: tuple[int, int], file_id: bytes) -> bytearray:
    """Derive the AES-256 key of one large file that the application `uuid` answers for.

    Security: 32 secret bytes. Every file has a key of its own, so its chunks' numbers serve as
    nonces.

    Args:
        root_key: 32 bytes.
        uuid: of the application, (high, low) u64.
        file_id: 16 bytes drawn for the file.
    """
    if len(file_id) != FILE_ID_BYTES:
        raise ValueError(f"file id of {len(file_id)} bytes, expected {FILE_ID_BYTES}")
    return _expand_once(application_key(root_key, uuid), _LABEL_FILE + file_id)


def counter_key(root_key: Key) -> bytearray:
    """Derive the HMAC-SHA-256 key that authenticates the rollback counter's record.

    Security: 32 secret bytes; below the SSK, since the counter serves every application.
    """
    return _expand_once(storage_key(root_key), _LABEL_COUNTER)


def identity_seed(root_key: Key) -> bytearray:
    """Derive the private key (RFC 8032) of the device's Ed25519 identity.

    Security: 32 secret bytes; who holds them signs evidence in the device's name.
    """
    return _expand_once(storage_key(root_key), _LABEL_ED25519)


def identity_scalar(root_key: Key) -> int:
    """Derive the private scalar of the device's P-256 identity, 1 <= d < n.

    By FIPS 186-5, A.2.1 (extra random bits): 64 bits more than n has, so the bias is below 2**-64.

    Security: secret; who holds it signs evidence in the device's name.
    """
    drawn = _expand_once(storage_key(root_key), _LABEL_P256, 40)
    try:
        return int.from_bytes(drawn, "big") % (_P256_ORDER - 1) + 1
    finally:
        wipe(drawn)
