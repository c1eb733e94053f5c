"""What this machine offers: the first thing to paste into a bug report.

Security: reports versions, limits and kernel features; no user data.
"""

import ctypes
import errno
import importlib
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from ptmo_secure.config import DEFAULT_MODEL, usable_cpus
from ptmo_secure.results import cpu_name, gpu_name, ram_bytes, read_lines
from ptmo_secure.tee_report import loss, not_in_force

Status = Literal["ok", "warn", "fail"]

_WANTED_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "aes", "vaes", "asimd", "asimddp", "i8mm")
_SYS_MEMFD_SECRET = 447  # the same number on x86-64, AArch64 and RISC-V
_ARENA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `warn`: works, with less protection or speed. `fail`: something will not run."""

    name: str
    status: Status
    detail: str

    def as_json(self) -> dict[str, object]:
        """The finding as a JSON object."""
        return asdict(self)


def run_checks() -> list[Check]:
    """Look at everything once. No check raises: one that cannot be done says why."""
    checks: list[tuple[str, Callable[[], tuple[Status, str]]]] = [
        ("python", _python),
        ("compiler", _compiler),
        ("cpu", _cpu),
        ("memory", _memory),
        ("gpu", _gpu),
        ("native module", _native_module),
        ("CUDA module", _cuda_module),
        ("memfd_secret", _memfd_secret),
        ("memlock limit", _memlock),
        ("seccomp", _seccomp),
        ("ptrace scope", _ptrace_scope),
        ("swap", _swap),
        ("model cache", _model_cache),
        ("TEE core", lambda: _tee("core")),
        ("TEE guard", lambda: _tee("guard")),
    ]
    found = []
    for name, look in checks:
        try:
            status, detail = look()
        except Exception as failure:  # a report must come out on any machine
            status, detail = "fail", f"{type(failure).__name__}: {failure}"
        found.append(Check(name, status, " ".join(detail.split())))
    return found


def _python() -> tuple[Status, str]:
    return "ok", f"{platform.python_implementation()} {platform.python_version()}"


def _compiler() -> tuple[Status, str]:
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        path = shutil.which(name.split()[0])
        if path:
            done = subprocess.run(  # noqa: S603 - a compiler found on PATH, no shell
                [path, "--version"], capture_output=True, text=True, timeout=20, check=False
            )
            return "ok", (done.stdout.splitlines() or [path])[0]
    return "warn", "none found; needed only to build the native module"


def _cpu() -> tuple[Status, str]:
    flags: set[str] = set()
    for line in read_lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    have = [flag for flag in _WANTED_FLAGS if flag in flags]
    slow = not {"avx2", "asimd"} & flags
    text = f"{cpu_name()}; {usable_cpus()} usable cores; {' '.join(have) or 'no SIMD'}"
    return "warn" if slow else "ok", text


def _memory() -> tuple[Status, str]:
    total = ram_bytes()
    if total is None:
        return "warn", "size unknown"
    return "ok" if total >= 2 << 30 else "warn", f"{total / 2**30:.1f} GiB"


def _gpu() -> tuple[Status, str]:
    return "ok", gpu_name() or "none; the engine runs on the CPU"


def _native_module() -> tuple[Status, str]:
    try:
        from ptmo_secure import _native
    except ImportError:
        return "fail", "not built: pip install -e ."
    level, aes = _native.kernel_level(), _native.aes_level()
    slow = aes == "portable"
    status: Status = "warn" if slow or level == "reference" else "ok"
    return status, f"kernel level {level}; AES {'in software (slow)' if slow else aes}"


def _cuda_module() -> tuple[Status, str]:
    without: Status = "warn" if gpu_name() else "ok"
    try:
        module = importlib.import_module("ptmo_secure._cuda")
    except ModuleNotFoundError:
        return without, "not built; the engine runs on the CPU (docs/cuda.md)"
    except ImportError as error:  # it is there, and a library that it needs is not
        return "warn", f"does not load: {error}"
    count, why = module.devices()
    if count:
        return "ok", f"code for {module.architectures}; runs on {module.device_name()}"
    return without, f"code for {module.architectures}; not usable: {why}"


def _memfd_secret() -> tuple[Status, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_MEMFD_SECRET, 0)
    if fd >= 0:
        os.close(fd)
        return "ok", "available: keys lie in memory that the kernel itself does not map"
    reason = errno.errorcode.get(ctypes.get_errno(), "unknown error")
    return "warn", f"not available ({reason}); keys lie in locked memory instead"


def _memlock() -> tuple[Status, str]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return "ok", "unlimited"
    enough = soft >= _ARENA_BYTES
    return "ok" if enough else "warn", f"{soft // 1024} KiB"


def _seccomp() -> tuple[Status, str]:
    actions = " ".join(read_lines("/proc/sys/kernel/seccomp/actions_avail"))
    if not actions:
        return "warn", "the kernel lists no seccomp actions"
    return "ok" if "kill_process" in actions else "warn", f"actions: {actions}"


def _ptrace_scope() -> tuple[Status, str]:
    lines = read_lines("/proc/sys/kernel/yama/ptrace_scope")
    if not lines:
        return "warn", "Yama is off: any process of this user may read another's memory"
    if lines[0] == "0":
        return "warn", "0: any process of this user may read another's memory"
    return "ok", lines[0]


def _swap() -> tuple[Status, str]:
    devices = read_lines("/proc/swaps")[1:]
    if not devices:
        return "ok", "off"
    return "warn", f"{len(devices)} in use: unsealed KV pages may reach a disk"


def _model_cache() -> tuple[Status, str]:
    from ptmo_secure.engine import registry

    here = [model for model in registry.list_models() if model.path is not None]
    folder = registry.cache_folder()
    if not here:
        return "warn", f"{folder}: empty; run `ptmo model pull {DEFAULT_MODEL}`"
    return "ok", f"{folder}: {', '.join(model.name for model in here)}"


def _tee(role: Literal["core", "guard"]) -> tuple[Status, str]:
    from tee_sim.client import TeeClient

    with TeeClient.launch(role) as tee:
        status = tee.status()
    missing = not_in_force(status)
    hardening = status["hardening"]
    count = len(hardening) if isinstance(hardening, dict) else 0
    if missing == ["own_user"] and os.geteuid() != 0:  # no user can mend that
        in_force = f"{count - 1} of {count} protections in force"
        return "ok", f"starts; {in_force}; own_user needs a start by root"
    if missing:
        return "warn", "starts; " + "; ".join(f"no {name}: {loss(name)}" for name in missing)
    return "ok", f"starts; {count} of {count} protections in force"
