"""The audit log of each start of a device, kept when the start ends.

A TEE's log ends with its process. Before that its newest records go into audit/BOOT-HEAD.log,
behind evidence that signs the log's head: bytes of the token u32, little-endian | token | digest
before the first record | records. `ptmo_secure.audit` checks them. BOOT is the number of the start,
HEAD tells apart two starts of one number, as a device has that was rolled back.

Security: who called which command how often, when, with which sizes and outcome; nothing of what
a call carried. A start that was killed leaves no log.
"""

import struct
from pathlib import Path

from ptmo_secure.sealed.files import replacing
from tee_sim.client import TeeClient

LOGS = "audit"
LOG_SUFFIX = ".log"
# No verifier draws it, so a kept token answers nobody's question.
LOG_NONCE = b"ptmo-secure/kept-audit-log/v1"
TOKEN_BYTES = struct.Struct("<I")
MOST_LOGS = 64
MOST_RECORDS = 1024


def keep_log(tee: TeeClient, folder: Path, boot: int) -> None:
    """Write what a TEE's log holds into its device's folder, in the place of the oldest.

    Args:
        tee: a device's that has fuses, its counter started.
        folder: of its state.
        boot: number of this start.

    Raises:
        TeeError: the TEE refuses or is gone.
        OSError: the log cannot be written.
    """
    token = tee.evidence(LOG_NONCE)
    tail = tee.audit_tail(MOST_RECORDS)
    logs = folder / LOGS
    logs.mkdir(mode=0o700, exist_ok=True)
    with replacing(logs / f"{boot:010d}-{tail.head.hex()[:8]}{LOG_SUFFIX}") as file:
        file.write(TOKEN_BYTES.pack(len(token)) + token + tail.before)
        file.writelines(record.pack() for record in tail.records)
    for oldest in sorted(logs.glob(f"*{LOG_SUFFIX}"))[:-MOST_LOGS]:
        oldest.unlink()
