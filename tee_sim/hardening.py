"""Start-up protections of the TEE process. Each that could not be had is recorded, not hidden."""

import _thread
import contextlib
import ctypes
import os
import resource
import select

from tee_sim import seccomp
from tee_sim.protocol import HARDENING_BITS

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_NOBODY = 65534  # the kernel's overflow id: the owner of no file


def begin(parent_pid: int) -> set[str]:
    """Switch on what is to stand before anything is loaded; return the names of what took effect.

    Security: `no_network` leaves no interface that is up, not even loopback; `dumpable_off` makes
    /proc/PID/mem unreadable for other processes of the same user (root still reads it);
    `no_core_dumps` keeps keys out of core files; `no_new_privs` makes set-uid programs harmless;
    `parent_watch` ends the TEE when its host process ends, whatever else still holds the socket.

    Args:
        parent_pid: process id of the host that launched this one.
    """
    steps = {
        "no_network": _leave_network(),  # first: a process with threads gets no user namespace
        "no_core_dumps": _no_core_dumps(),
        "no_new_privs": _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        "dumpable_off": _prctl(_PR_SET_DUMPABLE, 0),
        "parent_watch": _watch(parent_pid),
    }
    return {name for name, done in steps.items() if done}


def finish(begun: set[str]) -> int:
    """Give up what is needed no longer, once all is loaded; return the bits of all in effect.

    Security: `own_user` is a user that owns nothing, where root started the TEE: then no process of
    a user's reaches it. `system_calls` is the filter of `seccomp`, on every thread, last.

    Args:
        begun: what `begin` returned.
    """
    in_effect = set(begun)
    if _become_nobody():
        in_effect.add("own_user")
        if not _prctl(_PR_SET_DUMPABLE, 0):  # a change of the user sets it anew
            in_effect.discard("dumpable_off")
    if seccomp.confine():
        in_effect.add("system_calls")
    return sum(1 << bit for bit, name in enumerate(HARDENING_BITS) if name in in_effect)


def _prctl(what: int, value: int) -> bool:
    done: int = ctypes.CDLL(None, use_errno=True).prctl(what, value, 0, 0, 0)
    return done == 0


def _leave_network() -> bool:
    """Enter namespaces with no network and no System V IPC; in one of users where not root.

    There the user and group stay what they are, so that owners of files can still be told apart.
    """
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNET | _CLONE_NEWIPC | (0 if user == 0 else _CLONE_NEWUSER)
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        return False
    if user != 0:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    return True


def _become_nobody() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:
        return False
    return True


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
    # A thread that is still being set up when the filter comes would fail at its first calls.
    started = _thread.allocate_lock()
    started.acquire()
    _thread.start_new_thread(_exit_with, (pidfd, started))
    started.acquire()
    return True


def _exit_with(pidfd: int, started: "_thread.LockType") -> None:
    started.release()
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    os._exit(0)
