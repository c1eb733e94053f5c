"""Compile every CUDA kernel and hold it to the resources that kernels/README.md allows.

Fails where a kernel spills registers, has a stack, takes more registers or shared memory than its
row of the table "Resources of the CUDA kernels" allows, has blocks of other threads than the row,
fills less of a multiprocessor than that says, has no row, or has a row but is not there, and where
one that is to copy asynchronously does not. Prints what each kernel takes, and which nvcc says so:
registers are its choice.

    python kernels/cuda/build_gate.py
    python kernels/cuda/build_gate.py --arch 87 --nvcc /opt/cuda/bin/nvcc
"""

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cuda_toolkit

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "kernels" / "cuda").glob("*.cu"))
TABLE = ROOT / "kernels" / "README.md"
TITLE = "## Resources of the CUDA kernels"
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "--expt-relaxed-constexpr",
    f"-I{ROOT}",
    f"-I{ROOT}/csrc",
]
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
# Threads, shared bytes and blocks of a multiprocessor (the toolkit's cuda_occupancy.h).
MULTIPROCESSORS = {"87": (1536, 164 * 1024, 16), "90a": (2048, 228 * 1024, 32)}
# Kernels whose copies into shared memory are to be asynchronous, in every instantiation.
ASYNCHRONOUS = ("attention_block", "matmul_many", "split_rows")
COPY = re.compile(
    r"^[^/\n]*\bcp\.async\.c[ag]\.shared", re.MULTILINE
)  # cp.async.wait_group is none


@dataclass
class Resources:
    """What the largest instantiation of a kernel takes, per block where a block is named."""

    threads: int = 0
    registers: int = 0
    shared: int = 0
    spilled: int = 0
    stack: int = 0
    blocking: int = 0  # 1: has no asynchronous copies

    def widen(self, other: "Resources") -> None:
        for name in ("threads", "registers", "shared", "spilled", "stack", "blocking"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


@dataclass
class Row(Resources):
    """What the table allows a kernel, and the percent of occupancy it claims by architecture."""

    occupancy: dict[str, int] = field(default_factory=dict)


def run(command: list[str]) -> str:
    """Return what a compiler says on stderr; end the program with its message if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, check=False
        )
    except OSError as error:
        sys.exit(f"error: {command[0]} does not start: {error.strerror}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr.strip()}")
    return done.stdout + done.stderr


@functools.cache
def kernel_name(mangled: str) -> str:
    """Return a kernel's own name, without its template arguments."""
    plain = run(["c++filt", mangled]).strip()
    found = re.search(r"ptmo::cuda::(?:\(anonymous namespace\)::)?(\w+)[<(]", plain)
    return found.group(1) if found else plain


def read_report(report: str) -> dict[str, Resources]:
    """Read what `ptxas -v` says of each kernel."""
    kernels: dict[str, Resources] = {}
    name = ""
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = kernel_name(found.group(1))
        elif found := STACK.search(line):
            stack, stores, loads = map(int, found.groups())
            taken = Resources(stack=stack, spilled=stores + loads)
            kernels.setdefault(name, Resources()).widen(taken)
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.setdefault(name, Resources()).widen(
                Resources(
                    registers=int(found.group(1)), shared=int(shared.group(1)) if shared else 0
                )
            )
    return kernels


def read_ptx(text: str) -> dict[str, Resources]:
    """Read a kernel's threads, and whether an instantiation copies nothing asynchronously."""
    kernels: dict[str, Resources] = {}
    _, *entries = re.split(r"\.entry (\w+)", text)
    for mangled, body in zip(entries[::2], entries[1::2], strict=True):
        copies = COPY.search(body.split(".func")[0])  # a function that follows is not the kernel's
        bounds = re.search(r"\.maxntid (\d+)", body)  # none where it has no launch bounds
        threads = int(bounds.group(1)) if bounds else 0
        taken = Resources(threads=threads, blocking=0 if copies else 1)
        kernels.setdefault(kernel_name(mangled), Resources()).widen(taken)
    return kernels


def together(reports: Iterable[dict[str, Resources]]) -> dict[str, Resources]:
    """What several reports say of each kernel; a name may stand in more than one."""
    kernels: dict[str, Resources] = {}
    for report in reports:
        for name, taken in report.items():
            kernels.setdefault(name, Resources()).widen(taken)
    return kernels


def compile_source(nvcc: str, source: Path, arch: str, folder: Path) -> dict[str, Resources]:
    kept = folder / arch / source.stem
    kept.mkdir(parents=True)
    target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"]
    keep = ["--keep", "--keep-dir", str(kept)]  # the PTX that the cubin is made of
    out = str(kept / "kernels.cubin")
    report = run([nvcc, *FLAGS, *target, *keep, "-cubin", "-o", out, str(source)])
    (ptx,) = kept.glob("*.ptx")
    return together([read_report(report), read_ptx(ptx.read_text(encoding="utf-8"))])


def allowed(text: str) -> dict[str, Row]:
    """Read the table: kernel, threads, registers and shared bytes allowed, occupancy on each."""
    if TITLE not in text:
        sys.exit(f"{TABLE.name} has no section {TITLE!r}")
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) / (\d+) % \|",
        text.split(TITLE, 1)[1],
        re.MULTILINE,
    )
    limits = {}
    for name, *cells in rows:
        threads, registers, shared, *percents = (int(cell.replace(",", "")) for cell in cells)
        occupancy = dict(zip(MULTIPROCESSORS, percents, strict=True))
        limits[name] = Row(threads, registers, shared, occupancy=occupancy)
    return limits


def occupancy(taken: Resources, threads: int, arch: str) -> int:
    """Percent of a multiprocessor's threads that its registers and shared memory leave room for."""
    most, memory, most_blocks = MULTIPROCESSORS[arch]
    registers = -(-taken.registers // 8) * 8 * threads
    blocks = min(65536 // registers, memory // (taken.shared + 1024), most // threads, most_blocks)
    return 100 * blocks * threads // most


def problems(arch: str, kernels: dict[str, Resources], limits: dict[str, Row]) -> list[str]:
    """Where kernels take more than the table says, a line each."""
    found = [
        f"sm_{arch}: {name} stands in the table and in no source"
        for name in limits.keys() - kernels
    ]
    for name, taken in sorted(kernels.items()):
        if name in limits:
            found += [f"sm_{arch}: {name} {what}" for what in excesses(arch, taken, limits[name])]
        else:
            found.append(f"sm_{arch}: {name} has no row in the table")
    return found


def blocking(arch: str, kernels: dict[str, Resources]) -> list[str]:
    """Kernels that are to copy asynchronously and do not, a line each."""
    return [
        f"sm_{arch}: {name} has no asynchronous copies, or an instantiation without"
        for name in ASYNCHRONOUS
        if name not in kernels or kernels[name].blocking
    ]


def excesses(arch: str, taken: Resources, limit: Row) -> list[str]:
    """What a kernel has that its row does not allow. A stack lies in the device's memory."""
    found = []
    if taken.spilled:
        found.append(f"spills {taken.spilled} bytes")
    if taken.stack:
        found.append(f"has a stack of {taken.stack} bytes")
    if taken.registers > limit.registers:
        found.append(f"takes {taken.registers} registers, {limit.registers} allowed")
    if taken.shared > limit.shared:
        found.append(f"takes {taken.shared} B shared, {limit.shared} allowed")
    if taken.threads and taken.threads != limit.threads:
        found.append(f"has blocks of {taken.threads} threads, {limit.threads} in the table")
    if arch in limit.occupancy:
        percent = occupancy(taken, limit.threads, arch)
        if percent < limit.occupancy[arch]:
            found.append(f"has an occupancy of {percent} %, {limit.occupancy[arch]} % in the table")
    return found


def print_table(arch: str, kernels: dict[str, Resources], limits: dict[str, Row]) -> None:
    """Print what the kernels take; occupancy is that of the largest instantiation."""
    print(f"sm_{arch}")
    print("| kernel | threads | registers | shared bytes | spilled | stack | occupancy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, taken in sorted(kernels.items()):
        threads = limits[name].threads if name in limits else 0
        known = threads and arch in MULTIPROCESSORS
        percent = f"{occupancy(taken, threads, arch)} %" if known else "?"
        cells = (threads, taken.registers, f"{taken.shared:,}", taken.spilled, taken.stack, percent)
        print(f"| `{name}` | " + " | ".join(map(str, cells)) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--arch", nargs="+", default=["87", "90a"], help="compute capabilities")
    parser.add_argument("--nvcc", help="the compiler [default: as CMake finds it]")
    options = parser.parse_args()
    nvcc = options.nvcc or cuda_toolkit.nvcc()
    if nvcc is None:
        sys.exit(f"error: {cuda_toolkit.NO_COMPILER}, or in --nvcc")
    if shutil.which(nvcc) is None:
        sys.exit(f"error: --nvcc {nvcc} is no program")
    limits = allowed(TABLE.read_text(encoding="utf-8"))
    print(f"compiled by nvcc {cuda_toolkit.release(nvcc)}")
    found = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = {
            arch: [
                pool.submit(compile_source, nvcc, source, arch, Path(name)) for source in SOURCES
            ]
            for arch in options.arch
        }
        for arch, reports in compiled.items():
            kernels = together(report.result() for report in reports)
            found += problems(arch, kernels, limits) + blocking(arch, kernels)
            print_table(arch, kernels, limits)
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    print("gate failed" if found else "gate passed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
