"""What the TEE's processes say of themselves, and which protections they could not have here.

Security: states, sizes, counts and a digest; no key, no text.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptmo_secure.errors import EngineError
from ptmo_secure.sealed.paths import default_state_folder

if TYPE_CHECKING:
    from tee_sim.client import AuditTail, CounterState, TeeClient

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
class DeviceReport:
    """What keeps its sealed state in a folder.

    Args:
        folder: where it was looked for.
        state: of its rollback counter; None where there is none to be told.
        problem: why there is none; "" otherwise.
    """

    folder: Path
    state: "CounterState | None"
    problem: str = ""

    def as_json(self) -> dict[str, object]:
        """The report as a JSON object; its counter is told beside it."""
        return {
            "folder": str(self.folder),
            "boots": self.state.boots if self.state else None,
            "objects": self.state.objects if self.state else None,
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class TeeReport:
    """Both processes, as they stand right after their start.

    Args:
        core, guard: `TeeClient.status` of each.
        arena: kind of the memory that receives keys; None where there is none.
        audit: the core's log so far, checked.
        device: whose TEE the core is, or why it is nobody's.
    """

    core: Mapping[str, object]
    guard: Mapping[str, object]
    arena: str | None
    audit: "AuditTail"
    device: DeviceReport | None = None

    @property
    def downgrades(self) -> tuple[str, ...]:
        """Protections not in force: "arena", and those of a process as "core.NAME"."""
        missing = [] if self.arena == BEST_ARENA else ["arena"]
        for role, status in (("core", self.core), ("guard", self.guard)):
            missing += [f"{role}.{name}" for name in not_in_force(status)]
        return tuple(missing)

    def as_json(self) -> dict[str, object]:
        """The report as a JSON object: the core's own fields at the top, the guard's under "guard".

        `counter` is the rollback counter; null: this TEE has none, and "device" says why.
        """
        state = self.device.state if self.device else None
        return {
            "arena": self.arena,
            "counter": state.value if state else None,
            "device": self.device.as_json() if self.device else None,
            **self.core,
            "downgrades": list(self.downgrades),
            "audit": {"records": self.audit.length, "head": self.audit.head.hex()},
            "guard": dict(self.guard),
        }


def look(state: Path | None = None) -> TeeReport:
    """Start both processes, ask them, and end them.

    Where the folder holds a device, the core is that device's, and this start is one that its
    counter counts. A device is never made.

    Args:
        state: the folder; None is the default one.

    Raises:
        TeeError: one does not start, or its log is broken.
        SecurityError: the device's counter was removed or changed.
    """
    from tee_sim.client import TeeClient

    with _core(state or default_state_folder()) as (core, device):
        with TeeClient.launch("guard") as guard:
            return TeeReport(core.status(), guard.status(), arena_kind(), core.audit_tail(), device)


@contextlib.contextmanager
def _core(folder: Path) -> "Iterator[tuple[TeeClient, DeviceReport]]":
    """Start the core of the device in a folder, or else one without a past."""
    from ptmo_secure.sealed.store import SealedStore, holds_device
    from tee_sim.client import TeeClient

    problem = "no device keeps its state there"
    if holds_device(folder):
        try:
            store = SealedStore.open(folder)
        except EngineError as error:  # it runs already, for one
            problem = str(error)
        else:
            with store:
                yield store.tee, DeviceReport(folder, store.state())
            return
    with TeeClient.launch("core") as core:
        yield core, DeviceReport(folder, None, problem)


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
