"""Start-up protections of the TEE process. Each that could not be had is recorded, not hidden."""

import _thread
import ctypes
import os
import resource
import select

from tee_sim.protocol import HARDENING_BITS

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def apply(parent_pid: int) -> int:
    """Switch on what this kernel allows and return the bit set of what took effect.

    Security: `dumpable_off` makes /proc/PID/mem unreadable for other processes of the same user
    (root still reads it); `no_core_dumps` keeps keys out of core files; `no_new_privs` makes
    set-uid programs harmless; `parent_watch` ends the TEE when its host process ends, whatever
    else still holds the socket.

    Args:
        parent_pid: process id of the host that launched this one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    steps = {
        "dumpable_off": libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0,
        "no_core_dumps": _no_core_dumps(),
        "no_new_privs": libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0,
        "parent_watch": _watch(parent_pid),
    }
    return sum(1 << bit for bit, name in enumerate(HARDENING_BITS) if steps[name])


def _no_core_dumps() -> bool:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return False
    return True


def _watch(parent_pid: int) -> bool:
    """Exit with the parent process.

    PR_SET_PDEATHSIG would fire when the *thread* that launched the TEE ends, which a host with a
    thread pool does all the time; a pidfd names the process.
    """
    try:
        pidfd = os.pidfd_open(parent_pid)
    except OSError:
        return False
    if os.getppid() != parent_pid:
        os._exit(0)
    _thread.start_new_thread(_exit_with, (pidfd,))
    return True


def _exit_with(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    os._exit(0)
