"""The system calls a running TEE may make, as a seccomp filter (man 2 seccomp; BPF, McCanne 1993).

Nothing is opened, started, connected or mapped for execution any more: what runs was loaded
before. A call that is not listed fails with EPERM, as a plain error that a library can report. One
that only an intruder makes ends the process.
"""

import ctypes
import platform
import struct

# By machine: the kernel's name of it (AUDIT_ARCH_*), and the number of seccomp(2).
_MACHINES = {
    "x86_64": (0xC000003E, 317),
    "aarch64": (0xC00000B7, 277),
}
# name: (x86_64, aarch64); None where a machine has no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, None),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup2": (33, None),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "exit": (60, 93),
    "fcntl": (72, 25),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "ppoll": (271, 73),
    "dup3": (292, 24),
    "getrandom": (318, 278),
}
_WITHOUT_EXEC: dict[str, tuple[int | None, int | None]] = {"mmap": (9, 222), "mprotect": (10, 226)}
_DEADLY: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "ptrace": (101, 117),
    "setuid": (105, 146),
    "unshare": (272, 97),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "execveat": (322, 281),
    "pidfd_getfd": (438, 438),
}

_SET_MODE_FILTER, _ALL_THREADS = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _THIRD_ARGUMENT_AT = 0, 4, 16 + 2 * 8  # in struct seccomp_data
_X32_CALLS = 0x40000000
_PROT_EXEC = 4


def program(machine: str) -> bytes:
    """Return the filter for `machine` as struct sock_filter's, 8 bytes each.

    Raises:
        KeyError: a machine whose calls are not listed.
    """
    arch, _ = _MACHINES[machine]
    column = list(_MACHINES).index(machine)

    def numbers(calls: dict[str, tuple[int | None, int | None]]) -> list[int]:
        return [number for each in calls.values() if (number := each[column]) is not None]

    code = [
        _op(_LOAD, _ARCH_AT),
        _op(_EQUAL, arch, then=1),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER_AT),
        _op(_ABOVE, _X32_CALLS, otherwise=1),
        _op(_RETURN, _KILL),
    ]
    for number in numbers(_ALLOWED):
        code += [_op(_EQUAL, number, otherwise=1), _op(_RETURN, _ALLOW)]
    for number in numbers(_DEADLY):
        code += [_op(_EQUAL, number, otherwise=1), _op(_RETURN, _KILL)]
    for number in numbers(_WITHOUT_EXEC):
        code += [
            _op(_EQUAL, number, otherwise=4),
            _op(_LOAD, _THIRD_ARGUMENT_AT),
            _op(_ANY_BIT, _PROT_EXEC, otherwise=1),
            _op(_RETURN, _EPERM),
            _op(_RETURN, _ALLOW),
        ]
    return b"".join([*code, _op(_RETURN, _EPERM)])


def confine() -> bool:
    """Put every thread of this process under the filter, for good; False where that is refused.

    Needs no privilege once `no_new_privs` is set. Nothing can take the filter off again.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        return False
    code = program(machine)
    held = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the count of instructions, and where they are.
    whole = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    pointer = ctypes.create_string_buffer(whole, len(whole))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    done: int = syscall(_MACHINES[machine][1], _SET_MODE_FILTER, _ALL_THREADS, pointer)
    return done == 0


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Return one instruction; a jump skips so many when its test holds, or when it does not."""
    return struct.pack("=HBBI", code, then, otherwise, value)
