"""Measures the ratios of floors.py in interleaved rounds, and judges them.

    python benchmarks/check_ratios.py                          # all of them
    python benchmarks/check_ratios.py --only seal_1024,kv_int8 --threads 1
    python benchmarks/check_ratios.py --json > ratios.json
    python benchmarks/check_ratios.py --from ratios.json --markdown

Exits 0 when every floor asked for was measured, in five rounds or more, and kept; 1 when one was
missed, not measured or not judged, and says which; 2 on bad input. Where llama.cpp is not installed
(`make bench-peers`) its rows are not measured: --only leaves them out.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from floors import BY_NAME, THREADS, with_targets
from peers.models import peer_python
from ratios import bandwidth, batch, cache, llamacpp, lora, memory, shields
from ratios.measured import Measure, Settings
from report import (
    HEADINGS,
    RatioRow,
    Wanted,
    cells,
    faults,
    markdown,
    measured_row,
    read_result,
    result,
    skipped_row,
)
from rounds import ROUNDS
from script import MODEL_HELP, PEER_PYTHON_HELP, ArgumentParser, command_line, run, thread_count

from ptmo_secure.cli import output
from ptmo_secure.config import DEFAULT_MODEL, at_least, choices, whole_numbers
from ptmo_secure.errors import InputError

MEASURES: dict[str, Measure] = {
    "seal_1024": shields.seal_1024,
    "seal_4096": shields.seal_4096,
    "permute": shields.permute,
    "tee_crossings": shields.tee_crossings,
    "tee_call": shields.tee_call,
    "kv_int8": cache.kv_int8,
    "lora_1": lora.lora_1,
    "lora_3": lora.lora_3,
    "adapter_swap": lora.adapter_swap,
    "batch_8": batch.batch_8,
    "bandwidth": bandwidth.bandwidth,
    "memory": memory.memory,
}
NO_PEER = "llama.cpp is not installed: make bench-peers"


def check(settings: Settings, wanted: Wanted, peer: Path | None) -> list[RatioRow]:
    """Measure ratios, each at its thread count; skipped without the peer."""
    own = [(metric, n) for metric, n in wanted if metric.name not in llamacpp.METRICS]
    against_peer = [(metric, n) for metric, n in wanted if metric.name in llamacpp.METRICS]
    rows = _compare(settings, against_peer, peer) if against_peer else []
    for metric, n in own:
        output.note(f"{metric.name}, {thread_count(n)}")
        row = measured_row(metric, n, MEASURES[metric.name](settings, n))
        output.note(f"    {' | '.join(next(cells([row]))[2:])}")
        rows.append(row)
    return rows


def _compare(settings: Settings, wanted: Wanted, peer: Path | None) -> list[RatioRow]:
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
    made = ArgumentParser(
        description="Ratios of speed, beside their floors and goals.",
        epilog="Exits 0 when every floor asked for was measured and kept; 1 when one was missed, "
        f"not measured, or measured in fewer than {ROUNDS} rounds and so not judged; 2 on bad "
        "input.",
    )
    made.add_argument("--only", metavar="LIST", help=f"any of {names} [default: all]")
    counts = ",".join(map(str, THREADS))
    made.add_argument("--threads", metavar="LIST", help=f"any of {counts} [default: all]")
    made.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME|FILE",
        help=f"{MODEL_HELP} [default: %(default)s]",
    )
    rounds = f"[default: {ROUNDS}, the fewest that are judged]"
    made.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=rounds)
    made.add_argument("--peer-python", metavar="PATH", help=PEER_PYTHON_HELP)
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
    """Check, print, and say by the exit code whether every floor was measured and kept."""
    given = parser().parse_args(arguments)
    names = choices("ratio", given.only, tuple(BY_NAME)) if given.only is not None else BY_NAME
    threads = _thread_counts(given.threads) if given.threads is not None else THREADS
    wanted = with_targets(names, threads)
    if not wanted:
        counts = " and ".join(map(str, threads))
        raise InputError(f"none of {', '.join(names)} has a target at threads {counts}")
    settings = Settings(model=given.model, rounds=at_least("rounds", given.rounds, 1))
    peer = peer_python(given.peer_python)
    with output.json_only(given.json) as emit:
        if given.source:
            made, rows, measured = read_result(given.source)
            picked = given.only is not None or given.threads is not None
            wanted = wanted if picked else measured
            rows = [row for row in rows if (BY_NAME[row.metric], row.threads) in wanted]
        else:
            config: dict[str, Any] = {**asdict(settings), "only": [*names], "threads": threads}
            config["load_average_before"] = os.getloadavg()[0]
            rows = check(settings, wanted, peer)
            made = result(command_line(__file__, arguments), config, rows)
        emit(made)
    if given.markdown:
        print(markdown(made, rows))
    elif not given.json:
        show(rows)
    found = faults(rows, wanted)
    for fault in found:
        output.note(fault)
    return 1 if found else 0


def _thread_counts(given: str) -> tuple[int, ...]:
    counts = whole_numbers("threads", given)
    known = " and ".join(map(str, THREADS))
    for count in counts:
        if count not in THREADS:
            raise InputError(f"threads is {count}; floors are set for {known}")
    return counts


if __name__ == "__main__":
    run(main)
