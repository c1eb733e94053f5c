"""Builds llama.cpp's Python binding in an environment of its own: `make bench-peers`.

    python benchmarks/peers/install.py .venv-peers

It is compiled here, for this machine's own instructions, as a user of llama.cpp would have it. That
takes minutes; the compiler's progress is shown. A finished build leaves a stamp and is not done
again. The environment is separate so that nothing of it can get into the project's own.
"""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

PACKAGE = "llama-cpp-python[server]==0.3.36"  # its server is the cloud of a test
CMAKE_FLAGS = (
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAVA_BUILD=OFF",  # images: not measured
    "-DMTMD_BUILD=OFF",
)
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")


def stamp(folder: Path) -> Path:
    """The file that stands for a finished build of this version."""
    return folder / f".{PACKAGE}"


def build_steps(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(done, all) of the compiler's steps among the lines of a build's log."""
    for line in lines:
        found = _STEP.match(line)
        if found:
            yield int(found[1]), int(found[2])


def install(folder: Path) -> int:
    """Make the environment and build; the exit code of pip."""
    if stamp(folder).is_file():
        print(f"{folder}: {PACKAGE} is built already", file=sys.stderr)
        return 0
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    log_path = folder / "build.log"
    print(f"building {PACKAGE}, some 10 minutes; its log: {log_path}", file=sys.stderr)
    environment = {**os.environ, "CMAKE_ARGS": " ".join(CMAKE_FLAGS)}
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--verbose"]
    # No cache: a wheel that pip kept may have been compiled with other flags.
    command += ["--no-cache-dir", "--no-binary", "llama-cpp-python", PACKAGE]
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for done, total in build_steps(_copied(process.stdout or (), log)):
            print(f"\r{done}/{total} files compiled", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        code = process.wait()
    if code != 0:
        print("".join(log_path.read_text("utf-8").splitlines(True)[-20:]), file=sys.stderr)
        return code
    stamp(folder).touch()
    return 0


def _copied(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    for line in lines:
        log.write(line)
        yield line


if __name__ == "__main__":
    sys.exit(install(Path(sys.argv[1])))
