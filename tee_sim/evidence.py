"""What a device says of itself: the claims of an entity attestation token (EAT, RFC 9711).

Labels up to 273 are IANA's (CBOR Web Token Claims), those below -65536 are for private use;
docs/tee.md has the table. The profile is closed: these claims, all of them, and no other.
"""

from collections.abc import Container
from typing import NamedTuple

import cbor2

from tee_sim.errors import EvidenceError
from tee_sim.protocol import HARDENING_BITS, ArenaKind

PROFILE = "tag:ptmo-secure.example,2026:simulated-tee:1"
SOFTWARE = "tee_sim, a simulated TEE: no hardware stands behind this token"
NONCE_BYTES = range(8, 65)  # RFC 9711, section 4.1
DEBUG_STATES = (2, 0)  # RFC 9711, section 4.2.9: disabled since boot, enabled
_EAT_PROFILE, _SWNAME, _MEASUREMENTS = 265, 270, 273
_OCTET_STREAM = 42  # CoAP content format


class Evidence(NamedTuple):
    """The claims of one token; in parentheses their labels. Numbers are below 2**64.

    Attributes:
        nonce: (10) the verifier's, 8 to 64 bytes.
        ueid: (256) name of the device, 33 bytes.
        identity: (-70000) the device's public keys, 97 bytes; only an enrolment takes them.
        debug_state: (263) 2: off since the start. 0: something is on that a device in use must not
            have, as a root key that the host chose.
        boot_count: (267) number of this start; 0 for a device that forgets.
        measurement: (273, in an array) see `measurement.measure`, 32 bytes.
        hpke_key: (-70001) X25519 public key drawn at this start, 32 bytes.
        arena: (-70002) `ArenaKind` of the weakest memory since the start that is for keys.
        epoch: (-70003) number drawn last.
        counter: (-70004) the rollback counter; 0 for a device that forgets.
        hardening: (-70005) start-up protections in effect, a bit for each of `HARDENING_BITS`.
        audit_length, audit_head: (-70006, -70007) the audit log when the token was made.
    """

    nonce: bytes
    ueid: bytes
    identity: bytes
    debug_state: int
    boot_count: int
    measurement: bytes
    hpke_key: bytes
    arena: int
    epoch: int
    counter: int
    hardening: int
    audit_length: int
    audit_head: bytes

    @property
    def debug(self) -> bool:
        """Whether debugging is not off since the start."""
        return self.debug_state != DEBUG_STATES[False]

    @property
    def downgrades(self) -> tuple[str, ...]:
        """Names of the protections that are not in force: "arena", and of `HARDENING_BITS`."""
        bits = enumerate(HARDENING_BITS)
        missing = tuple(name for bit, name in bits if not self.hardening >> bit & 1)
        return missing if self.arena == ArenaKind.MEMFD_SECRET else ("arena", *missing)

    def encode(self) -> bytes:
        """The claims as a CBOR map in its deterministic encoding."""
        claims: dict[int, object] = dict(zip(_LABELS, self, strict=True))
        claims[_MEASUREMENTS] = [[_OCTET_STREAM, self.measurement]]
        return cbor2.dumps(claims | {_EAT_PROFILE: PROFILE, _SWNAME: SOFTWARE}, canonical=True)


_LABELS = (10, 256, -70000, 263, 267, 273, -70001, -70002, -70003, -70004, -70005, -70006, -70007)
# What a number may be, or the length of a byte string; the second for fields not in the first.
_SIZES: dict[str, Container[object]] = {"nonce": NONCE_BYTES, "ueid": [33], "identity": [97]}
_SIZES["arena"] = range(len(ArenaKind))
_OTHERS: dict[type, Container[object]] = {bytes: [32], int: range(1 << 64)}


def read_evidence(payload: bytes) -> Evidence:
    """Return the evidence that a payload holds.

    Raises:
        EvidenceError: "profile", it says that it is of another; "malformed", it is not, to the
            byte, what `Evidence.encode` makes.
    """
    try:
        claims = cbor2.loads(payload)
        profile = claims[_EAT_PROFILE]
        claims[_MEASUREMENTS] = claims[_MEASUREMENTS][0][1]
        evidence = Evidence(*(claims[label] for label in _LABELS))
    except Exception:  # decoders of CBOR tags raise what they like
        raise EvidenceError("malformed", "not the claims of a device") from None
    if profile != PROFILE:
        raise EvidenceError("profile", f"the claims are not those of {PROFILE}")
    for (name, kind), value in zip(Evidence.__annotations__.items(), evidence, strict=True):
        size = len(value) if isinstance(value, bytes) else value
        if type(value) is not kind or size not in _SIZES.get(name, _OTHERS[kind]):
            raise EvidenceError("malformed", "a claim of another type or length")
    if evidence.encode() != payload:
        raise EvidenceError("malformed", "other claims, or not in their deterministic encoding")
    return evidence
