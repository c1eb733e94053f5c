"""Threads to time the kernels with, and a table of what came out."""

from typing import Any

import pytest

from ptmo_secure.config import usable_cpus, whole_numbers

COLUMNS = (
    ("us/call", "call_us", "{:.2f}"),
    ("GB/s", "gbps", "{:.1f}"),
    ("read GB/s", "read_gbps", "{:.1f}"),
    ("of read", "fraction", "{:.0%}"),
    ("GMAC/s", "gmacs", "{:.0f}"),
    ("lies in", "resident", "{}"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kernel-threads",
        default=",".join(map(str, range(1, min(usable_cpus(), 2) + 1))),
        metavar="LIST",
        help="thread counts to time the kernels with (default: %(default)s)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        counts = whole_numbers("kernel-threads", metafunc.config.getoption("--kernel-threads"))
        metafunc.parametrize("threads", counts, ids=lambda count: f"{count}t")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [bench for bench in getattr(session, "benchmarks", []) if bench.extra_info]
    if not rows:
        return
    terminalreporter.section("kernels: bytes and time, beside the machine's read bandwidth")
    width = max(len(bench.name) for bench in rows)
    terminalreporter.line(f"{'':{width}}" + "".join(f"{head:>11}" for head, _, _ in COLUMNS))
    for bench in sorted(rows, key=lambda bench: bench.name):
        cells = [_cell(bench.extra_info[key], form) for _, key, form in COLUMNS]
        terminalreporter.line(f"{bench.name:{width}}" + "".join(f"{cell:>11}" for cell in cells))


def _cell(value: object, form: str) -> str:
    return "-" if value is None else form.format(value)
