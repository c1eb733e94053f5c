"""The TEE process: receives a packet, answers it, until the host closes the socket.

Started by `tee_sim.spawn` with an empty environment and one descriptor, the socket.
"""

import gc
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tee_sim import hardening
from tee_sim.dispatch import ApplicationLoader, Dispatcher, TrustedApplication
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import Budget
from tee_sim.protocol import MAX_PACKET_BYTES, MAX_PACKET_FDS

if TYPE_CHECKING:
    from tee_sim.audit import AuditLog

_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_PACKET_FDS)


def main(role: str, socket_fd: int, parent_pid: int, fuses: str = "") -> None:
    """Serve one connection as `role` ("core" or "guard") and exit.

    Args:
        role: which trusted applications to load.
        socket_fd: connected SOCK_SEQPACKET socket.
        parent_pid: the host process; the TEE ends with it.
        fuses: file of the root key of a core that has one; empty: the key is drawn now.

    Raises:
        ValueError: on an unknown role.
    """
    begun = hardening.begin(parent_pid)
    load, audit = _loader(role, fuses)
    gc.collect()
    gc.freeze()
    null = os.open(os.devnull, os.O_WRONLY)  # the last file that is opened
    with socket.socket(fileno=socket_fd) as connection:
        serve(connection, Dispatcher(load, hardening.finish(begun), audit), null)


def serve(connection: socket.socket, dispatcher: Dispatcher, null: int) -> None:
    """Answer packets until the peer closes.

    Security: a packet of any content gets one reply; an empty packet, a lost peer or a failing
    socket ends the service and wipes the application's state.

    Args:
        connection: connected SOCK_SEQPACKET socket.
        dispatcher: answers one packet.
        null: /dev/null, where stderr goes once start-up succeeded, so that no later text leaves by
            it; closed then.
    """
    first = True
    try:
        while True:
            packet, descriptors = _receive(connection)
            if not packet:
                break
            connection.send(dispatcher.handle(packet, descriptors))
            dispatcher.note()
            if first:
                os.dup2(null, 2)
                os.close(null)
                first = False
    except OSError:
        pass  # the host is gone: nobody is left to answer
    finally:
        dispatcher.close()


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors; a packet that was cut comes back unparsable."""
    packet, ancillary, flags, _ = connection.recvmsg(
        MAX_PACKET_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    if not ancillary and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        return packet, []
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            descriptors.extend(memoryview(data[:whole]).cast("i"))
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        return b"\0", descriptors
    return packet, descriptors


def _loader(role: str, fuses: str) -> tuple[ApplicationLoader, "AuditLog | None"]:
    """Import only what the role needs; return the builder of its applications, and its log."""
    if role == "core":
        from tee_sim.audit import AuditLog
        from tee_sim.device import Device, read_fuses
        from tee_sim.ta.admin import AdminApplication
        from tee_sim.ta.kv import KvApplication
        from tee_sim.ta.store import StoreApplication

        audit = AuditLog()
        fused_key = None
        if fuses:
            try:
                fused_key, _ = read_fuses(fuses)  # the descriptor keeps the lock
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise SystemExit(f"{fuses}: {reason}") from None

        def load_core(budget: Budget, root_key: bytearray | None) -> Sequence[TrustedApplication]:
            drawn = root_key or fused_key or bytearray(os.urandom(32))
            device = Device(budget, drawn, fused=root_key is None and fused_key is not None)
            store = StoreApplication(budget, device)
            kv = KvApplication(budget, device)
            return kv, store, AdminApplication(audit, kv)

        return load_core, audit
    if role == "guard":
        from tee_sim.ta.guard import GuardApplication

        def load_guard(budget: Budget, root_key: bytearray | None) -> Sequence[TrustedApplication]:
            if root_key is not None:
                raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "the guard holds no root key")
            return (GuardApplication(budget),)

        return load_guard, None
    raise ValueError(f"unknown TEE role {role!r}")
