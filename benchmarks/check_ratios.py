"""Measures the ratios of floors.py in interleaved rounds; exits 1 if one is under its floor.

    python benchmarks/check_ratios.py                          # all of them
    python benchmarks/check_ratios.py --only seal_1024,kv_int8 --threads 1
    python benchmarks/check_ratios.py --json > ratios.json
    python benchmarks/check_ratios.py --from ratios.json --markdown

The rows against llama.cpp are skipped where it is not installed (`make bench-peers`).
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from floors import BY_NAME, Metric
from peers.models import peer_python
from ratios import bandwidth, batch, cache, llamacpp, lora, memory, shields
from ratios.measured import Measure, Settings
from report import (
    HEADINGS,
    RatioRow,
    cells,
    failed,
    markdown,
    measured_row,
    read_result,
    result,
    skipped_row,
)
from rounds import ROUNDS
from script import command_line, run, thread_count

from ptmo_secure.cli import output
from ptmo_secure.config import DEFAULT_MODEL, at_least, choices, positive_ints
from ptmo_secure.errors import InputError

MEASURES: dict[str, Measure] = {
    "lora_1": lora.lora_1,
    "lora_3": lora.lora_3,
    "lora_swap": lora.lora_swap,
    "seal_1024": shields.seal_1024,
    "seal_4096": shields.seal_4096,
    "permute": shields.permute,
    "kv_int8": cache.kv_int8,
    "batch_8": batch.batch_8,
    "bandwidth": bandwidth.bandwidth,
    "memory": memory.memory,
}
NO_PEER = "llama.cpp is not installed: make bench-peers"


def check(
    settings: Settings, names: Sequence[str], threads: Sequence[int], peer: Path | None
) -> list[RatioRow]:
    """Measure the ratios called `names` at those of the thread counts that have a target.

    Raises:
        InputError: none has.
    """
    wanted = [(BY_NAME[name], n) for name in names for n in threads if n in BY_NAME[name].targets]
    if not wanted:
        raise InputError(f"none of {', '.join(names)} has a target at these thread counts")
    own = [(metric, n) for metric, n in wanted if metric.name not in llamacpp.METRICS]
    against_peer = [(metric, n) for metric, n in wanted if metric.name in llamacpp.METRICS]
    rows = _compare(settings, against_peer, peer) if against_peer else []
    for metric, n in own:
        output.note(f"{metric.name}, {thread_count(n)}")
        row = measured_row(metric, n, MEASURES[metric.name](settings, n))
        output.note(f"    {' | '.join(next(cells([row]))[2:])}")
        rows.append(row)
    return rows


def _compare(
    settings: Settings, wanted: Sequence[tuple[Metric, int]], peer: Path | None
) -> list[RatioRow]:
    if peer is None:
        output.note(NO_PEER)
        return [skipped_row(metric, threads, NO_PEER) for metric, threads in wanted]
    names = {metric.name for metric, _ in wanted}
    counts = sorted({threads for _, threads in wanted})
    found = llamacpp.measure(settings, peer, names, counts, output.note)
    return [measured_row(metric, n, found[metric.name, n]) for metric, n in wanted]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ",".join(BY_NAME)
    made = argparse.ArgumentParser(description="Ratios of speed, beside their floors and goals.")
    made.add_argument("--only", default=names, metavar="LIST", help=f"any of {names}")
    made.add_argument("--threads", default="1,2", metavar="LIST")
    made.add_argument("--model", default=DEFAULT_MODEL)
    made.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    made.add_argument("--peer-python", metavar="PATH", help="a Python that has llama_cpp")
    made.add_argument("--from", dest="source", type=Path, metavar="FILE", help="an earlier --json")
    made.add_argument("--json", action="store_true", help="one JSON object on stdout")
    made.add_argument("--markdown", action="store_true", help="the table for the README")
    return made


def show(rows: Sequence[RatioRow]) -> None:
    """Print the table for people."""
    from rich.table import Table

    table = Table(title="ratios, medians of interleaved rounds")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in cells(rows):
        table.add_row(*row)
    output.console().print(table)


def main(arguments: list[str]) -> int:
    """Check, print, and say by the exit code whether every floor was kept."""
    given = parser().parse_args(arguments)
    names = choices("ratio", given.only, tuple(BY_NAME))
    threads = positive_ints("threads", given.threads)
    settings = Settings(model=given.model, rounds=at_least("rounds", given.rounds, 1))
    peer = peer_python(given.peer_python)
    with output.json_only(given.json) as emit:
        if given.source:
            made, rows = read_result(given.source)
        else:
            config: dict[str, Any] = {**asdict(settings), "only": names, "threads": threads}
            config["load_average_before"] = os.getloadavg()[0]
            rows = check(settings, names, threads, peer)
            made = result(command_line(__file__, arguments), config, rows)
        emit(made)
    if given.markdown:
        print(markdown(made, rows))
    elif not given.json:
        show(rows)
    for row in failed(rows):
        where = thread_count(row.threads)
        output.note(f"{row.metric} at {where}: {row.measured:.3f} misses {row.floor}")
    return 1 if failed(rows) else 0


if __name__ == "__main__":
    run(main)
