"""What the TEE's processes say of themselves, and which protections they could not have here.

Security: states, sizes, counts and a digest; no key, no text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tee_sim.client import AuditTail

_ARENA_BYTES = 4096
BEST_ARENA = "memfd_secret"
# What is open where a protection is not in force.
LOSSES: Mapping[str, str] = {
    "arena": "root can read the engine's keys through /proc/PID/mem",
    "dumpable_off": "other processes of this user can read the TEE's memory",
    "no_core_dumps": "a crash can write the TEE's memory to a file",
    "no_new_privs": "a program the TEE started could gain rights by set-uid",
    "parent_watch": "the TEE can outlive its host while something else holds the socket",
    "no_network": "code that took the TEE over would find a network",
    "own_user": "the TEE runs as its host's user",
    "system_calls": "code that took the TEE over could open files and start programs",
    "secret_memory": "root can read the TEE's root key through /proc/PID/mem",
}


@dataclass(frozen=True, slots=True)
class TeeReport:
    """Both processes, as they stand right after their start.

    Args:
        core, guard: `TeeClient.status` of each.
        arena: kind of the memory that receives keys; None where there is none.
        audit: the core's log so far, checked.
    """

    core: Mapping[str, object]
    guard: Mapping[str, object]
    arena: str | None
    audit: "AuditTail"

    @property
    def downgrades(self) -> tuple[str, ...]:
        """Protections not in force: "arena", and those of a process as "core.NAME"."""
        missing = [] if self.arena == BEST_ARENA else ["arena"]
        for role, status in (("core", self.core), ("guard", self.guard)):
            missing += [f"{role}.{name}" for name in not_in_force(status)]
        return tuple(missing)

    def as_json(self) -> dict[str, object]:
        """The report as a JSON object: the core's own fields at the top, the guard's under "guard".

        `counter` is the rollback counter; null: this TEE has none.
        """
        return {
            "arena": self.arena,
            "counter": None,
            **self.core,
            "downgrades": list(self.downgrades),
            "audit": {"records": self.audit.length, "head": self.audit.head.hex()},
            "guard": dict(self.guard),
        }


def look() -> TeeReport:
    """Start both processes, ask them, and end them.

    Raises:
        TeeError: one does not start, or its log is broken.
    """
    from tee_sim.client import TeeClient

    with TeeClient.launch("core") as core, TeeClient.launch("guard") as guard:
        return TeeReport(core.status(), guard.status(), arena_kind(), core.audit_tail())


def arena_kind() -> str | None:
    """Kind of memory an engine's secret arena would be; None where there would be none."""
    try:
        from ptmo_secure import _native

        return _native.SecretArena(_ARENA_BYTES).kind
    except (ImportError, RuntimeError):  # not built; or no memory may be locked
        return None


def not_in_force(status: Mapping[str, object]) -> list[str]:
    """Names of the start-up protections that a process reports as missing."""
    hardening = status.get("hardening")
    return (
        [name for name, on in hardening.items() if not on] if isinstance(hardening, Mapping) else []
    )


def loss(name: str) -> str:
    """Say what is open without a protection, named as in `TeeReport.downgrades`."""
    return LOSSES.get(name.rpartition(".")[2], "not in force")
