"""`ptmo tee audit`: what a device's TEE was asked, start by start."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ptmo_secure.audit import StartLog


def audit(
    start: Annotated[
        int | None, typer.Option("--start", metavar="N", help="Show every record of this start.")
    ] = None,
    enrolled: Annotated[
        str | None,
        typer.Option("--enrolled", metavar="FILE", help="Enrolment record of the device."),
    ] = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Check and show the audit logs that a device's starts left.

    \b
    Examples:
      ptmo tee audit
      ptmo tee audit --start 3
      ptmo tee audit --state ./device --enrolled keys.json --json

    A device's TEE lives as long as the program that uses it, and so does its log. When the program
    ends, the log is kept in DIR/audit, signed by the device; the newest 64 are. This reads those
    files and starts nothing. Exit code 1 if one was changed, is another device's or another
    start's. A start that is missing between others was killed, or its log was removed. Keys come
    from the enrolment record [default: attestation_keys.json of DIR, made by ptmo tee attest].
    """
    with output.json_only(json) as emit:
        from ptmo_secure.audit import missing_starts, read_logs
        from ptmo_secure.engine.paths import path_text

        folder = options.state_path(state)
        record = None if enrolled is None else Path(path_text("--enrolled", enrolled))
        logs = read_logs(folder, record)
        missing = missing_starts(logs)
        shown = [log for log in logs if start in (None, log.evidence.boot_count)]
        if not shown:
            raise InputError(f"start {start} left no log in {folder}")
        emit(
            {
                "state": str(folder),
                "ueid": logs[0].evidence.ueid.hex(),
                "starts": [log.as_json() for log in shown],
                "missing_starts": missing,
            }
        )
    if json:
        return
    output.console().print(_starts(shown) if start is None else _records(shown[0]))
    if missing:
        output.note(f"no log of start {', '.join(map(str, missing))}: killed, or removed")


def _starts(logs: "Sequence[StartLog]") -> "Table":
    from rich.table import Table

    table = Table(title="Audit logs of a simulated TEE, verified")
    for heading in ("start", "counter", "records", "calls", "refused", "head"):
        table.add_column(heading, justify="left" if heading == "head" else "right")
    for log in logs:
        records = str(len(log.records)) + (f" + {log.dropped} dropped" if log.dropped else "")
        counts = (str(log.evidence.counter), records, str(log.calls), str(log.refused))
        head = log.evidence.audit_head.hex()[:16]
        table.add_row(str(log.evidence.boot_count), *counts, head)
    return table


def _records(log: "StartLog") -> "Table":
    from rich.table import Table

    from ptmo_secure.audit import record_as_json

    table = Table(title=f"Audit log of start {log.evidence.boot_count}, verified")
    rows = [record_as_json(record) for record in log.records]
    for heading in rows[0] if rows else ():
        table.add_column(
            heading.replace("_", " "),
            justify="left" if heading in ("request", "result") else "right",
        )
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


COMMANDS = (audit,)
