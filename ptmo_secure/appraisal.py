"""The verifier's side of attestation: which devices it knows, and what it saw of them before.

`Verifier` of `tee_sim.verify` judges; this keeps its files. The memory holds the claims of each
device's newest evidence, so that one that was rolled back since is refused.
"""

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ptmo_secure.attestation import read_enrolment
from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.sealed import files
from tee_sim.verify import (
    Evidence,
    EvidenceError,
    Verifier,
    read_evidence,
    reference_measurement,
)

MEMORY = "verifier.json"
MAX_TOKEN_TEXT_BYTES = 1 << 16
_COSE_SIGN1 = b"\xd2\x84"
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+=*")


class RefusedEvidence(SecurityError):
    """A token was refused.

    Args:
        refused: by which check, and why.
    """

    def __init__(self, refused: EvidenceError) -> None:
        self.check = refused.check
        super().__init__(f"evidence refused: {refused}")


def appraise(
    text: bytes,
    nonce: bytes,
    enrolled: Sequence[Path],
    memory: Path,
    measurements: Collection[bytes] = (),
    require: Collection[str] = (),
) -> Evidence:
    """Return what a token says, if everything holds, and remember it.

    Security: keys come from the enrolment records alone. The memory is read and written under a
    lock, and replaced whole or not at all.

    Args:
        text: what `ptmo tee attest` printed: its JSON, or the token in base64url, hexadecimal or
            binary.
        nonce: what the verifier drew for this token.
        enrolled: enrolment records.
        memory: the verifier's file, made where there is none.
        measurements: accepted besides that of the `tee_sim` installed here.
        require: protections that must be in force, besides `tee_sim.verify.REQUIRED`.

    Raises:
        RefusedEvidence: naming the check that failed.
        InputError: no such record, an unknown protection, or a path that cannot be the memory's.
        SecurityError: the memory is damaged.
        EngineError: the disk is full or fails.
    """
    identities = [read_enrolment(path) for path in enrolled]
    try:
        verifier = Verifier(identities, [reference_measurement(), *measurements], require)
    except ValueError as error:
        raise InputError(str(error)) from None
    with _locked(memory):
        verifier.seen = _read_memory(memory)
        try:
            evidence = verifier.verify(token_of(text), nonce)
        except EvidenceError as refused:
            raise RefusedEvidence(refused) from None
        _write_memory(memory, verifier.seen)
    return evidence


def token_of(text: bytes) -> bytes:
    """Return the token in `text`, whichever of its forms it has.

    Raises:
        EvidenceError: "malformed", there is none.
    """
    if text.startswith(_COSE_SIGN1):
        return text
    try:
        token = text.decode("ascii").strip()
        if token.startswith("{"):
            token = json.loads(token)["token"]
        if _HEX.fullmatch(token):
            return bytes.fromhex(token)
        if _BASE64URL.fullmatch(token):
            bare = token.rstrip("=")
            return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except (ValueError, TypeError, LookupError, RecursionError, binascii.Error):
        pass
    raise EvidenceError("malformed", "neither JSON with a token, nor base64url, hex or binary")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other verifiers out of the memory; by its folder, since the file is replaced."""
    with files.naming(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read_memory(path: Path) -> dict[bytes, Evidence]:
    try:
        kept = json.loads(path.read_bytes())
        if not isinstance(kept, list):
            raise TypeError
        newest = [read_evidence(bytes.fromhex(claims)) for claims in kept]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise files.failure(path, error) from None
    except (ValueError, TypeError, RecursionError, EvidenceError):
        raise SecurityError(f"{path}: the verifier's memory is damaged") from None
    return {evidence.ueid: evidence for evidence in newest}


def _write_memory(path: Path, seen: dict[bytes, Evidence]) -> None:
    with files.naming(path), files.replacing(path) as file:
        file.write(json.dumps([evidence.encode().hex() for evidence in seen.values()]).encode())
