"""The TEE process: receives a packet, answers it, until the host closes the socket.

Started by `tee_sim.spawn` with an empty environment and one descriptor, the socket; where core and
guard are started together, with one end of a pipe besides, which is closed before the first reply.
"""

import gc
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tee_sim import hardening
from tee_sim.dispatch import ApplicationLoader, Dispatcher, TrustedApplication
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import Budget
from tee_sim.protocol import MAX_PACKET_BYTES, MAX_PACKET_FDS
from tee_sim.secret_memory import SecretMemory

if TYPE_CHECKING:
    from tee_sim.audit import AuditLog

# What a test's own entry point puts between a TEE and its world: it is given the socket, the
# builder of the applications and the log, and returns the first two as they are to be used.
Instruments = Callable[
    [socket.socket, ApplicationLoader, "AuditLog | None"], tuple[socket.socket, ApplicationLoader]
]
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_PACKET_FDS)
_CONTENDED_NS = 10_000


def main(
    role: str,
    socket_fd: int,
    parent_pid: int,
    fuses: str = "",
    poll_us: int = 0,
    key_pipe: int = -1,
    instruments: Instruments | None = None,
) -> None:
    """Serve one connection as `role` ("core" or "guard") and exit.

    Security: a launch passes no instruments, and no argument, variable or packet can. A process
    that has them says that it is a debug one, whatever they do.

    Args:
        role: which trusted applications to load.
        socket_fd: connected SOCK_SEQPACKET socket.
        parent_pid: the host process; the TEE ends with it.
        fuses: file of the root key of a core that has one; empty: the key is drawn now.
        poll_us: how long the next packet is awaited without sleeping.
        key_pipe: end of the pipe by which a core gives a guard its storage key; -1: there is none.
        instruments: fault points, of tests alone.

    Raises:
        ValueError: on an unknown role.
    """
    begun = hardening.begin(parent_pid)
    secrets = SecretMemory()
    if secrets.kind == "memfd_secret":
        begun.add("secret_memory")
    gc.disable()  # what is loaded stays
    load, audit = _loader(role, fuses, secrets, key_pipe)
    gc.freeze()
    gc.enable()
    null = os.open(os.devnull, os.O_WRONLY)  # the last file that is opened
    with socket.socket(fileno=socket_fd) as connection:
        used = connection
        if instruments is not None:
            used, load = instruments(connection, load, audit)
        dispatcher = Dispatcher(load, hardening.finish(begun), audit)
        dispatcher.debug = instruments is not None
        serve(used, dispatcher, null, poll_us)


def serve(connection: socket.socket, dispatcher: Dispatcher, null: int, poll_us: int = 0) -> None:
    """Answer packets until the peer closes.

    Security: a packet of any content gets one reply; an empty packet, a lost peer or a failing
    socket ends the service and wipes the application's state.

    Args:
        connection: connected SOCK_SEQPACKET socket.
        dispatcher: answers one packet.
        null: /dev/null, where stderr goes once start-up succeeded, so that no later text leaves by
            it; closed then.
        poll_us: as for `main`.
    """
    first = True
    try:
        while True:
            packet, descriptors = _receive(connection, poll_us)
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


def _receive(connection: socket.socket, poll_us: int) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors; a packet that was cut comes back unparsable."""
    packet, ancillary, flags, _ = _await(connection, poll_us)
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


def _await(
    connection: socket.socket, poll_us: int
) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    """Wait for a packet, first without sleeping.

    A decoding step calls every 100 us or so, and an idle core takes a third of that to wake up.
    Whoever else wants this core gets it: a yield that takes long ends the polling.
    """
    flags = socket.MSG_CMSG_CLOEXEC
    now = time.perf_counter_ns()
    end = now + 1000 * poll_us
    while now < end:
        try:
            return connection.recvmsg(
                MAX_PACKET_BYTES, _ANCILLARY_BYTES, flags | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            before = time.perf_counter_ns()
        os.sched_yield()
        now = time.perf_counter_ns()
        if now - before > _CONTENDED_NS:
            break
    return connection.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES, flags)


def _loader(
    role: str, fuses: str, secrets: SecretMemory | None = None, key_pipe: int = -1
) -> tuple[ApplicationLoader, "AuditLog | None"]:
    """Import only what the role needs; return the builder of its applications, and its log."""
    if role == "core":
        from tee_sim.audit import AuditLog
        from tee_sim.device import Device, draw_key, read_fuses
        from tee_sim.key_pipe import give
        from tee_sim.keys import application_key
        from tee_sim.measurement import measure
        from tee_sim.protocol import TA_GUARD
        from tee_sim.ta.admin import AdminApplication
        from tee_sim.ta.attest import AttestApplication
        from tee_sim.ta.kv import KvApplication
        from tee_sim.ta.store import StoreApplication

        audit, measurement = AuditLog(), measure()
        fused_key: bytearray | None = None
        if fuses:
            try:
                fused_key, _ = read_fuses(fuses)  # the descriptor keeps the lock
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise SystemExit(f"{fuses}: {reason}") from None

        def load_core(budget: Budget, root_key: bytearray | None) -> Sequence[TrustedApplication]:
            nonlocal fused_key, key_pipe
            key, fused_key = fused_key, None  # used once: the device overwrites it
            if fuses and (key is None or root_key is not None):
                raise TeeError(ResultCode.BAD_STATE, Origin.TEE, "the fuses were read already")
            device = Device(budget, root_key or key or draw_key(), secrets, fused=key is not None)
            if key_pipe >= 0:
                pipe, key_pipe = key_pipe, -1
                give(pipe, application_key(device.root_key, TA_GUARD))
            store = StoreApplication(budget, device)
            kv = KvApplication(budget, device)
            attest = AttestApplication(device, audit, measurement)
            return kv, store, AdminApplication(audit, kv), attest

        return load_core, audit
    if role == "guard":
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it keeps a file in the user's home open
        from tee_sim.guard.ner import open_model
        from tee_sim.key_pipe import STORAGE_KEY_BYTES, receive
        from tee_sim.ta.guard import GuardApplication

        try:
            classifier = open_model()
            drawn = receive(key_pipe) if key_pipe >= 0 else None
        except ValueError as error:
            raise SystemExit(str(error)) from None

        # Without a core vaults are sealed, too, and open as long as this process is there
        storage_key = (secrets or SecretMemory()).keep(
            drawn or bytearray(os.urandom(STORAGE_KEY_BYTES))
        )

        def load_guard(budget: Budget, root_key: bytearray | None) -> Sequence[TrustedApplication]:
            if root_key is not None:
                raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "the guard holds no root key")
            return (GuardApplication(budget, classifier, storage_key),)

        return load_guard, None
    raise ValueError(f"unknown TEE role {role!r}")
