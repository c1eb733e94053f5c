"""The CUDA device, its tools, and what is built for it: for run.py and for `make bench-gpu`.

    python tests/gpu/device_build.py --python .venv-gpu/bin/python

Builds `ptmo_secure._cuda` for the device that is there. Without one it builds nothing and says
nothing: the benchmark does.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu"
TOOLKIT = Path("/usr/local/cuda")
NO_COMPILER = (
    "no CUDA compiler: nvcc is neither on PATH nor in CUDA_HOME/bin or /usr/local/cuda/bin; "
    "install it, or name it in CUDACXX"
)


def stop(message: str) -> None:
    """End the program with one line."""
    sys.exit(f"error: {message}")


def tool(name: str) -> str:
    """Path of a program that a PyPI package put beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        stop(f"{name} not found: run `make setup`")
    return str(found)


def usable_devices() -> tuple[int, str]:
    """(usable CUDA devices, why there is none), as the driver says; needs no build."""
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
            stop(f"CUDACXX={named} is no program")
        return os.path.abspath(str(found))
    return shutil.which("nvcc") or first_in("nvcc", toolkit_folders())


def compute_sanitizer() -> str | None:
    """compute-sanitizer, which a toolkit has beside its compiler."""
    compilers = [Path(compiler) for compiler in [nvcc()] if compiler]
    beside = [folder for each in compilers for folder in (each.parent, each.resolve().parent)]
    name = "compute-sanitizer"
    return first_in(name, beside) or shutil.which(name) or first_in(name, toolkit_folders())


def run(what: str, command: list[str], **environment: str) -> bool:
    """Run a command in the open; whether it succeeded."""
    print(f"\n== {what}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode != 0:
        print(f"error: {what} failed with exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def module_name(python: str) -> str:
    """File name of a `_cuda` module that this Python imports."""
    command = [python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        stop(f"{python} is no Python")
    return f"_cuda{done.stdout.strip()}"


def build(archs: str, targets: list[str], python: str = sys.executable) -> bool:
    """Build `targets` for these compute capabilities, and put the `_cuda` module in its place.

    The folder is not the one of `pip install`, whose settings stay as they are.
    """
    import pybind11

    if (compiler := nvcc()) is None:
        stop(NO_COMPILER)
    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        f"-DCMAKE_CUDA_COMPILER={compiler}",
        *("-DCMAKE_BUILD_TYPE=Release", "-DPTMO_CUDA=ON", "-DPTMO_GPU_TESTS=ON"),
        *("-DPTMO_BUILD_TESTS=OFF", "-DPTMO_BUILD_PYTHON=ON", f"-DPTMO_CUDA_ARCHS={archs}"),
        f"-DPython_EXECUTABLE={python}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    make = [tool("cmake"), "--build", str(BUILD), "--parallel", "--target", *targets]
    if not (run(f"configuring for {archs}", configure) and run("building", make)):
        return False
    name = module_name(python)  # over one that was built for another device
    shutil.copy(BUILD / name, ROOT / "ptmo_secure" / f"{name}.new")
    os.replace(ROOT / "ptmo_secure" / f"{name}.new", ROOT / "ptmo_secure" / name)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--python", default=sys.executable, help="the Python that will import it")
    python = parser.parse_args().python
    found = shutil.which(python)
    if found is None:
        stop(f"--python {python}: no such program")
    if usable_devices()[0] == 0:
        return 0
    return 0 if build("native", ["_cuda"], os.path.abspath(str(found))) else 1


if __name__ == "__main__":
    sys.exit(main())
