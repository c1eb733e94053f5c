"""The command line that the scripts of fusion share, and how they print."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from script import MODEL_HELP, ArgumentParser, command_line

from fusion.texts import FIXTURE
from ptmo_secure.cli import output
from ptmo_secure.config import DEFAULT_MODEL
from ptmo_secure.results import envelope

Row = Mapping[str, object]


def parser(description: str) -> ArgumentParser:
    """A parser with the options that all of them have."""
    made = ArgumentParser(description=description)
    made.add_argument("--model", default=DEFAULT_MODEL, help=f"of the device: {MODEL_HELP}")
    made.add_argument("--text", type=Path, default=FIXTURE, help='split at lines of "== "')
    made.add_argument("--documents", type=int, default=0, help="how many of it; 0 for all")
    made.add_argument("--tokens", type=int, default=48, help="decoded per answer")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def publish(
    script: str,
    arguments: Sequence[str],
    settings: Mapping[str, object],
    as_json: bool,
    measure: Callable[[], Sequence[Row]],
) -> None:
    """Measure, and print a line a row or one JSON object."""
    with output.json_only(as_json) as emit:
        load = os.getloadavg()[0]
        rows = measure()
        config = {**settings, "load_average_before": load}
        emit(envelope(command_line(script, arguments), config, rows))
    if not as_json:
        for row in rows:
            print("  ".join(f"{name}={_shown(value)}" for name, value in row.items()))


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
