"""Builds `ptmo_secure._native` and `tee_sim._gather` with CMake, and `_cuda` where there is nvcc.

Everything else about the package is in pyproject.toml.

CMake, Ninja and pybind11 come from PyPI (the build-system requirements), so the machine needs a
C++17 compiler and Python with its headers, and nothing more.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD_DIR = ROOT / "build" / "native"


class CMakeExtension(Extension):
    """An extension whose sources and flags are CMakeLists.txt's business."""

    def __init__(self, name: str, *, optional: bool = False) -> None:
        super().__init__(name, sources=[], optional=optional)


def stop(message: str) -> None:
    """End the build with one line that says what to do."""
    raise SystemExit(f"ptmo-secure: {message}")


def tool(package: str, directory_attribute: str) -> str:
    """Path of the program `package` that its PyPI package carries, else the one on PATH."""
    try:
        module = __import__(package)
        found = shutil.which(package, path=getattr(module, directory_attribute))
    except (ImportError, AttributeError):
        found = None
    found = found or shutil.which(package)
    if found is None:
        stop(f"{package} is missing: pip install {package}")
    return str(found)


def check_machine() -> None:
    """Name the one thing that is missing, before CMake prints a page about it."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(candidate.split()[0]) for candidate in candidates):
        stop(f"no C++ compiler found (looked for {', '.join(candidates)}): install g++ or clang++")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        stop("Python.h not found: install the headers of this Python (Debian: python3-dev)")
    if not (ROOT / "CMakeLists.txt").is_file():
        stop("CMakeLists.txt not found: build from a full checkout")


def cuda_options() -> list[str]:
    """Whether and for what the CUDA engine is built: for PTMO_CUDA_ARCHS, else for Orin.

    Always both, since the build folder remembers what it was told last.
    """
    archs = os.environ.get("PTMO_CUDA_ARCHS") or "87"
    if not re.fullmatch(r"native|\d+[af]?(;\d+[af]?)*", archs):
        stop(f"PTMO_CUDA_ARCHS={archs!r}: say native, or compute capabilities such as 87;90a")
    return ["-DPTMO_CUDA=AUTO", f"-DPTMO_CUDA_ARCHS={archs}"]


class CMakeBuild(build_ext):
    """Configure and build in build/native; put the module where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, CMakeExtension):
            super().build_extension(ext)
            return
        if ext.name != "ptmo_secure._native":
            return  # CMake built it beside that one, or could not if it is optional
        check_machine()
        import pybind11

        output_dir = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        output_dir.mkdir(parents=True, exist_ok=True)
        cmake = tool("cmake", "CMAKE_BIN_DIR")
        configure = [
            cmake,
            *("-S", str(ROOT), "-B", str(BUILD_DIR), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja', 'BIN_DIR')}",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('PTMO_BUILD_TYPE', 'Release')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output_dir}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DPYBIND11_FINDPYTHON=ON",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *cuda_options(),
            *os.environ.get("PTMO_CMAKE_ARGS", "").split(),
        ]
        jobs = str(os.cpu_count() or 1)
        build = [cmake, "--build", str(BUILD_DIR), "--target", "modules", "--parallel", jobs]
        for command in (configure, build):
            if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - no shell
                stop("the native module did not build; the compiler's own message is above")


setup(
    ext_modules=[
        CMakeExtension("ptmo_secure._native"),
        CMakeExtension("tee_sim._gather"),
        CMakeExtension("ptmo_secure._cuda", optional=True),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
