"""Where the CUDA compiler is, and whether the driver sees a device; needs no build and no package.

For build_gate.py beside it, for tests/gpu, for benchmarks/bench_gpu.py and for .ci/run:

    python kernels/cuda/cuda_toolkit.py      # prints the compiler's path; nothing where none is
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOOLKIT = Path("/usr/local/cuda")
NO_COMPILER = (
    "no CUDA compiler: nvcc is neither on PATH nor in CUDA_HOME/bin or /usr/local/cuda/bin; "
    "install it, or name it in CUDACXX"
)


def toolkit_folders() -> list[Path]:
    """Where a toolkit's programs lie that PATH does not name: JetPack names none."""
    homes = [Path(home) for home in [os.environ.get("CUDA_HOME")] if home]
    return [home / "bin" for home in (*homes, TOOLKIT)]


def first_in(name: str, folders: list[Path]) -> str | None:
    """The first program of this name."""
    return shutil.which(name, path=os.pathsep.join(map(str, folders)))


def nvcc() -> str | None:
    """The CUDA compiler: CUDACXX, else the first on PATH, in CUDA_HOME, in /usr/local/cuda."""
    if named := os.environ.get("CUDACXX"):
        if (found := shutil.which(named)) is None:
            sys.exit(f"error: CUDACXX={named} is no program")
        return os.path.abspath(found)
    return shutil.which("nvcc") or first_in("nvcc", toolkit_folders())


def release(compiler: str) -> str:
    """Which nvcc this is, such as V13.0.88."""
    done = subprocess.run(  # noqa: S603 - no shell
        [compiler, "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"release [\d.]+, (V[\d.]+)", done.stdout)
    return found.group(1) if found else "of an unknown release"


def compute_sanitizer() -> str | None:
    """compute-sanitizer, which a toolkit has beside its compiler."""
    compilers = [Path(compiler) for compiler in [nvcc()] if compiler]
    beside = [folder for each in compilers for folder in (each.parent, each.resolve().parent)]
    name = "compute-sanitizer"
    return first_in(name, beside) or shutil.which(name) or first_in(name, toolkit_folders())


def usable_devices() -> tuple[int, str]:
    """(usable CUDA devices, why there is none), as the driver says."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no CUDA driver (libcuda.so.1 is not there)"
    if (error := driver.cuInit(0)) != 0:
        return 0, f"the CUDA driver does not start (cuInit: error {error})"
    count = ctypes.c_int()
    if (error := driver.cuDeviceGetCount(ctypes.byref(count))) != 0:
        return 0, f"the CUDA driver counts no devices (error {error})"
    return count.value, "" if count.value else "the CUDA driver sees no device"


if __name__ == "__main__":
    print(nvcc() or "")
