"""The verifier of devices' evidence (RFC 9334). Host code imports this and `tee_sim.client`.

verifier = Verifier([identities of enrolled devices])
evidence = verifier.verify(token, nonce)     # or EvidenceError, naming the check that failed
"""

from collections.abc import Collection, Iterable

from cryptography.exceptions import InvalidSignature

from tee_sim.audit_chain import DIGEST_BYTES, RECORD_BYTES, AuditTail, read_tail
from tee_sim.cose import check_signature, read_sign1
from tee_sim.cose import public_keys as public_keys
from tee_sim.cose import ueid_of as ueid_of
from tee_sim.errors import EvidenceError as EvidenceError
from tee_sim.evidence import NONCE_BYTES as NONCE_BYTES
from tee_sim.evidence import Evidence as Evidence
from tee_sim.evidence import read_evidence as read_evidence
from tee_sim.measurement import measure
from tee_sim.protocol import HARDENING_BITS
from tee_sim.protocol import ArenaKind as ArenaKind

PROTECTIONS = ("arena", *HARDENING_BITS)
# No kernel that starts the TEE refuses these three: where one is missing, it was taken away.
REQUIRED = ("dumpable_off", "no_core_dumps", "no_new_privs")


class Verifier:
    """Judges tokens by what it knows: keys, measurements, its own nonce, and what it saw before.

    Security: nothing of a token is decoded before its signature is checked, and no key that comes
    with one is ever taken. A device is known by its keys, got from it by a way that is trusted.

    Args:
        enrolled: identities of known devices, each the 97 bytes of their public keys.
        measurements: those accepted; None: that of the `tee_sim` and the interpreter running here.
        require: names out of `PROTECTIONS` that must be in force, besides `REQUIRED`.

    Attributes:
        seen: the newest evidence of each device, by UEID. Keep it from run to run, or devices can
            be rolled back unnoticed.

    Raises:
        ValueError: an unknown name in `require`.
    """

    def __init__(
        self,
        enrolled: Iterable[bytes],
        measurements: Collection[bytes] | None = None,
        require: Collection[str] = (),
    ) -> None:
        unknown = sorted(set(require).difference(PROTECTIONS))
        if unknown:
            raise ValueError(f"no protection {unknown[0]!r}: there are {', '.join(PROTECTIONS)}")
        self._enrolled = {ueid_of(identity): identity for identity in enrolled}
        self._measurements = [reference_measurement()] if measurements is None else measurements
        self._require = {*REQUIRED, *require}
        self.seen: dict[bytes, Evidence] = {}

    def verify(self, token: bytes, nonce: bytes) -> Evidence:
        """Return what a token says, if every check holds, and remember it in `seen`.

        Args:
            token: COSE_Sign1, as `TeeClient.evidence` returns it.
            nonce: what the verifier drew for this token and for no other.

        Raises:
            EvidenceError: its `check` names the first that failed; docs/tee.md lists them.
        """
        message = read_sign1(token)
        identity = self._enrolled.get(message.key_id)
        if identity is None:
            raise EvidenceError("unknown_key", "signed by no enrolled device")
        try:
            check_signature(message, identity)
        except InvalidSignature:
            raise EvidenceError("signature", "changed, or signed by another key") from None
        evidence = read_evidence(message.payload)
        if (evidence.ueid, evidence.identity) != (message.key_id, identity):
            raise EvidenceError("unknown_key", "signed by another device than it names")
        if evidence.nonce != nonce:
            raise EvidenceError("nonce", "stale: the token answers another nonce")
        if evidence.debug:
            raise EvidenceError("debug", "the device runs with debugging on")
        if evidence.measurement not in self._measurements:
            raise EvidenceError("measurement", f"unknown software {evidence.measurement.hex()}")
        missing = ", ".join(sorted(self._require.intersection(evidence.downgrades)))
        if missing:
            raise EvidenceError("protection", f"required and not in force: {missing}")
        self._check_progress(evidence, self.seen.get(evidence.ueid, evidence))
        self.seen[evidence.ueid] = evidence
        return evidence

    def _check_progress(self, now: Evidence, known: Evidence) -> None:
        """Refuse evidence from before what was accepted of the same device."""
        if now.boot_count < known.boot_count:
            raise EvidenceError(
                "boot_count", f"{now.boot_count}, after {known.boot_count} was seen"
            )
        if now.boot_count == known.boot_count and now.hpke_key != known.hpke_key:
            raise EvidenceError(
                "boot_count", f"start {now.boot_count} is not the one that was seen"
            )
        if now.counter < known.counter:
            raise EvidenceError("counter", f"{now.counter}, after {known.counter} was seen")


def attested_tail(data: bytes, evidence: Evidence) -> AuditTail:
    """Return the records of an audit log that evidence stands for.

    Args:
        data: the digest before the first record, then records: those attested, and perhaps more.
        evidence: of the same start; verified.

    Raises:
        TeeError: SECURITY: the records were changed, reordered or cut, or are another log's.
    """
    first = int.from_bytes(data[DIGEST_BYTES : DIGEST_BYTES + 8], "little")
    attested = DIGEST_BYTES + RECORD_BYTES * (evidence.audit_length - first)
    return read_tail(data[: max(0, attested)], evidence.audit_length, evidence.audit_head)


def reference_measurement() -> bytes:
    """Return what a device measures that runs this `tee_sim` on this interpreter."""
    return measure()


def unverified(token: bytes) -> Evidence:
    """Return what a token says. Nothing of it is checked: not who signed it, nor what it claims.

    Raises:
        EvidenceError: "malformed" or "profile".
    """
    return read_evidence(read_sign1(token).payload)
