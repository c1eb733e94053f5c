"""Measures the CUDA kernels beside the device's ceilings and beside torch, and judges the ratios.

    python benchmarks/bench_gpu.py --output out/gpu.json        # the table, and JSON beside it
    python benchmarks/bench_gpu.py --only gemv_g128,attention_sealed --rounds 9
    python benchmarks/bench_gpu.py --from out/gpu.json --markdown

Exits 0 when no floor was missed, and where there is no CUDA device, which it says; 1 when a floor
was missed or measured in too few rounds to be judged, when a kernel failed, when a run without
--only left a ratio unmeasured, and says which, or when there is a device and no module that can use
it; 2 on bad input. Where torch does not see the device,
the ratios to its kernels are not measured, and their rows say so.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from floors import GPU_BY_NAME
from gpu.device import Device, find_module
from gpu.measures import MEASURES
from gpu.peers import find_torch, first_line
from gpu.rows import (
    HEADINGS,
    Failed,
    GpuRow,
    cells,
    detail,
    faults,
    heading,
    is_whole,
    markdown,
    read_result,
    row,
)
from gpu.rows import result as to_result
from ratios.measured import Measured
from rounds import ROUNDS
from script import ArgumentParser, command_line, run

from ptmo_secure.cli import output
from ptmo_secure.config import at_least, choices
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.results import to_json

sys.path.append(str(Path(__file__).resolve().parents[1] / "kernels" / "cuda"))

import cuda_toolkit

NO_DEVICE = "bench_gpu: nothing was measured, there is no CUDA device to measure on: {why}"
NO_MODULE = (
    "there is a CUDA device, and no module to measure it with ({why}); `make bench-gpu` builds it, "
    "for the Python that BENCH_PYTHON names"
)


def measure(device: Device, names: Sequence[str]) -> list[GpuRow]:
    """Measure ratios, and say each as it is known. One that fails leaves the others alone."""
    try:
        device.measure_ceilings()
    except RuntimeError as error:
        output.note(f"ceilings not measured: {first_line(error)}")
    rows: list[GpuRow] = []
    for name in names:
        output.note(name)
        for variant in GPU_BY_NAME[name].variants:
            made = row(GPU_BY_NAME[name], variant, _figure(device, name, variant))
            (line,) = cells([made])
            output.note(f"    {' | '.join((*line[1:], detail(made)))}")
            rows.append(made)
    return rows


def _figure(device: Device, name: str, variant: str) -> Measured | Failed | str:
    try:
        return MEASURES[name](device, variant)
    except (RuntimeError, ValueError, MemoryError) as error:  # what native code may raise
        return Failed(first_line(error))


def show(title: str, rows: Sequence[GpuRow]) -> None:
    """Print the table for people."""
    from rich.table import Table

    table = Table(title=title)
    for name in HEADINGS:
        table.add_column(name, overflow="fold")
    for line in cells(rows):
        table.add_row(*line)
    output.console().print(table)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        description="Ratios of the CUDA kernels, beside their floors and goals.",
        epilog="Exits 0 when no floor was missed, and where there is no CUDA device; 1 when one "
        f"was missed, or measured in fewer than {ROUNDS} rounds and so not judged, when a kernel "
        "failed, when without --only a ratio was not measured, or when there is a device and no "
        "module that can use it; 2 on bad input.",
    )
    names = ",".join(GPU_BY_NAME)
    made.add_argument("--only", metavar="LIST", help=f"any of {names} [default: all]")
    rounds = f"[default: {ROUNDS}, the fewest that are judged]"
    made.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=rounds)
    made.add_argument("--from", dest="source", type=Path, metavar="FILE", help="an earlier result")
    made.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON")
    made.add_argument("--markdown", action="store_true", help="the table for the README")
    return made


def main(arguments: list[str]) -> int:
    """Measure or read, print, and say by the exit code whether a floor was missed."""
    given = parser().parse_args(arguments)
    names = choices("ratio", given.only, tuple(GPU_BY_NAME)) if given.only is not None else None
    rounds = at_least("rounds", given.rounds, 1)
    if given.output:
        _check_writable(given.output)
    if given.source:
        made, rows = read_result(given.source)
        rows = [row for row in rows if names is None or row.metric in names]
    else:
        devices, why = cuda_toolkit.usable_devices()
        if not devices:
            print(NO_DEVICE.format(why=why))
            return 0
        cuda, why = find_module()
        if cuda is None:
            raise EngineError(NO_MODULE.format(why=why))
        device = Device(cuda, find_torch(), rounds)
        picked = [*(names if names is not None else GPU_BY_NAME)]
        config = {"only": picked, "rounds": rounds, "runs": device.runs}
        config["device"] = cuda.device_name()
        config["working_set_bytes"] = device.working_set
        config["load_average_before"] = os.getloadavg()[0]
        rows = measure(device, picked)
        made = to_result(command_line(__file__, arguments), config, device.ceilings, rows)
    if given.markdown:
        print(markdown(made, rows))
    else:
        show(heading(made), rows)
    found = faults(rows, whole=names is None and is_whole(rows))
    for fault in found:
        output.note(fault)
    if given.output:  # last: what was measured is on the screen if the disk is full
        with _writing(given.output):
            given.output.write_text(to_json(made) + "\n")
    return 1 if found else 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _check_writable(path: Path) -> None:
    """Raise InputError now instead of after an hour; an earlier result stays as it is."""
    with _writing(path):
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()


if __name__ == "__main__":
    run(main)
