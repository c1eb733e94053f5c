"""The device's side of attestation: evidence for a verifier's nonce, and the enrolment record.

The record holds the public keys of the device in a folder. A verifier takes it along once, by a way
it trusts, and believes tokens of those keys and of no others.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.sealed import files
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import Algorithm, TeeClient
from tee_sim.verify import PROTECTIONS, ArenaKind, Evidence, public_keys, ueid_of, unverified

ENROLMENT = "attestation_keys.json"
ALGORITHMS: Mapping[str, Algorithm] = {"eddsa": Algorithm.EDDSA, "es256": Algorithm.ES256}
_ARENA_BYTES = 4096
_EDDSA_BYTES = 32
_MAX_RECORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Attestation:
    """A token, and what it says.

    Args:
        token: COSE_Sign1.
        evidence: its claims, as the device told them.
        enrolment: the record that holds the device's public keys.
        enrolled: whether that record names this device; False: another one's was there before.
    """

    token: bytes
    evidence: Evidence
    enrolment: Path
    enrolled: bool

    @property
    def text(self) -> str:
        """The token in base64url without padding (RFC 4648)."""
        return base64.urlsafe_b64encode(self.token).rstrip(b"=").decode()

    def as_json(self) -> dict[str, object]:
        """The token, the public keys and the claims as a JSON object."""
        return {
            "token": self.text,
            "keys": keys_as_json(self.evidence.identity),
            "claims": claims_as_json(self.evidence),
            "enrolment": str(self.enrolment),
            "enrolled": self.enrolled,
        }


def attest(folder: Path, nonce: bytes, algorithm: str = "eddsa") -> Attestation:
    """Start the device whose state is in `folder`, and have it sign evidence.

    The device, and its enrolment record, are made where there is none.

    Args:
        folder: of a `SealedStore`.
        nonce: the verifier's, 8 to 64 bytes.
        algorithm: a name of `ALGORITHMS`.

    Raises:
        InputError: an unknown algorithm, or the folder cannot be made.
        EngineError: the TEE does not start, also when another one runs on this device.
        SecurityError: the device's state was tampered with.
        TeeError: the nonce has another length.
    """
    if algorithm not in ALGORITHMS:
        raise InputError(f"unknown algorithm {algorithm!r}: choose from {', '.join(ALGORITHMS)}")
    with SealedStore.open(folder) as store:
        _show_arena(store.tee)
        token = store.tee.evidence(nonce, ALGORITHMS[algorithm])
        evidence = unverified(token)
        record = folder / ENROLMENT
        # The device admits one process at a time, so nobody else writes the record meanwhile.
        enrolled = _enrol(record, evidence.identity)
    return Attestation(token, evidence, record, enrolled)


def read_enrolment(path: Path) -> bytes:
    """Return the identity that an enrolment record holds, for `Verifier`.

    Raises:
        InputError: it cannot be read, or is no such record.
    """
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(_MAX_RECORD_BYTES))
        identity = bytes.fromhex(record["eddsa"]) + bytes.fromhex(record["es256"])
        public_keys(identity)
        named = record["ueid"]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; `ptmo tee attest` makes it") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InputError(f"{path}: no enrolment record") from None
    if named != ueid_of(identity).hex():
        raise InputError(f"{path}: no enrolment record: the keys are not those of the device named")
    return identity


def keys_as_json(identity: bytes) -> dict[str, str]:
    """A device's name and public keys, as the enrolment record holds them."""
    eddsa, es256 = identity[:_EDDSA_BYTES], identity[_EDDSA_BYTES:]
    return {"ueid": ueid_of(identity).hex(), "eddsa": eddsa.hex(), "es256": es256.hex()}


def claims_as_json(evidence: Evidence) -> dict[str, Any]:
    """The claims of a token as a JSON object; byte strings in hexadecimal."""
    downgrades = evidence.downgrades
    return {
        "nonce": evidence.nonce.hex(),
        "ueid": evidence.ueid.hex(),
        "debug": evidence.debug,
        "boot_count": evidence.boot_count,
        "counter": evidence.counter,
        "epoch": evidence.epoch,
        "measurement": evidence.measurement.hex(),
        "hpke_key": evidence.hpke_key.hex(),
        "arena": ArenaKind(evidence.arena).name.lower(),
        "hardening": {name: name not in downgrades for name in PROTECTIONS if name != "arena"},
        "downgrades": list(downgrades),
        "audit": {"records": evidence.audit_length, "head": evidence.audit_head.hex()},
    }


def _show_arena(tee: TeeClient) -> None:
    """Register an arena as an engine would, so that the TEE sees which kind this machine gives."""
    try:
        from ptmo_secure import _native

        arena = _native.SecretArena(_ARENA_BYTES)
    except (ImportError, RuntimeError):  # not built; or no memory may be locked
        return
    tee.register_fd(arena.fd, arena.size)


def _enrol(path: Path, identity: bytes) -> bool:
    """Write the record where there is none; return whether it names the device of this identity."""
    if path.exists():
        return read_enrolment(path) == identity
    try:
        with files.replacing(path) as file:
            file.write(json.dumps(keys_as_json(identity), indent=1).encode() + b"\n")
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    return True
