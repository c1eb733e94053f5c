"""What is built for the CUDA device that is there: for run.py and for `make bench-gpu`.

    python tests/gpu/device_build.py --python .venv-gpu/bin/python

Builds `ptmo_secure._cuda` for the device that is there. Without one it builds nothing and says
nothing: the benchmark does.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2] / "kernels" / "cuda"))

import cuda_toolkit

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu"


def stop(message: str) -> NoReturn:
    """End the program with one line."""
    sys.exit(f"error: {message}")


def tool(name: str) -> str:
    """Path of a program that a PyPI package put beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        stop(f"{name} not found: run `make setup`")
    return found


def run(what: str, command: list[str], **environment: str) -> bool:
    """Run a command in the open; whether it succeeded."""
    print(f"\n== {what}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode != 0:
        print(f"error: {what} failed with exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def interpreter(python: str) -> str:
    """Path of the Python that --python names."""
    found = shutil.which(python)
    if found is None:
        stop(f"--python {python}: no such program")
    return os.path.abspath(found)  # not what a link of a venv leads to, which is no venv


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
    try:
        import pybind11
    except ImportError:
        stop(f"{sys.executable} has no pybind11: run `make setup`")
    if (compiler := cuda_toolkit.nvcc()) is None:
        stop(cuda_toolkit.NO_COMPILER)
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
    python = interpreter(parser.parse_args().python)
    if cuda_toolkit.usable_devices()[0] == 0:
        return 0
    return 0 if build("native", ["_cuda"], python) else 1


if __name__ == "__main__":
    sys.exit(main())
