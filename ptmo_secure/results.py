"""The JSON object that every measuring command writes: what ran, where, and what came out."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ptmo_secure.config import usable_cpus

_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU


def envelope(
    command: str, config: Mapping[str, object], results: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Put results beside everything needed to judge and to repeat them.

    Args:
        command: the command as the user would type it again.
        config: its settings, defaults included.
        results: one object per measurement.
    """
    return {
        "command": command,
        "commit": git_commit(),
        "machine": machine_facts(),
        "config": dict(config),
        "results": [dict(row) for row in results],
    }


def to_json(value: object) -> str:
    """One line of JSON, ASCII only, so that any terminal encoding can carry it.

    Raises:
        ValueError: on NaN or infinity, which JSON cannot hold.
    """
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    """JSON form of the other types that results hold: paths and numpy scalars."""
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


@lru_cache(maxsize=1)
def machine_facts() -> dict[str, object]:
    """CPU, cores, memory, GPU and Python of this machine; None for what cannot be read."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cpus(),
        "ram_bytes": ram_bytes(),
        "gpu": gpu_name(),
        "python": platform.python_version(),
    }


def cpu_name() -> str | None:
    """Model name of the CPU."""
    for line in read_lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine() or None


def ram_bytes() -> int | None:
    """Memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def gpu_name() -> str | None:
    """Name of the first NVIDIA GPU, or of the Jetson board."""
    for path in sorted(_DRIVER.glob("*/information")):
        for line in read_lines(path):
            key, _, value = line.partition(":")
            if key == "Model":
                return value.strip()
    if "nvidia,tegra" not in "".join(read_lines("/proc/device-tree/compatible")):
        return None  # other boards have device trees too
    return "".join(read_lines("/proc/device-tree/model")).strip("\0 ") or None


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with `+changes` if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    commit = _git(git, root, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(git, root, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _git(git: str, root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [git, "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_lines(path: str | Path) -> list[str]:
    """Lines of a small text file of the kernel's; none if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
