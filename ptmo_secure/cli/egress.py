"""`ptmo audit`: what left the device."""

from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ptmo_secure.cloud.egress_log import EgressRecord
    from ptmo_secure.cloud.report import Destination


def audit(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="From then on: 24h, 7d, 2026-04-01."),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=0, help="Show the N newest records.")
    ] = 10,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the whole chain; exit code 1 if it is broken.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="HEX", help="A head that --verify gave: still there?"),
    ] = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Show what left the device, to whom, and what was refused.

    \b
    Examples:
      ptmo audit
      ptmo audit --since 24h --json
      ptmo audit --verify
      ptmo audit --verify --head 3f2a...

    Every request to a cloud is recorded in DIR/egress before it is sent: time, provider, model,
    bytes, how many placeholders of which kinds, what for; never the text. The records are chained:
    each is checked against the one before it. --verify also misses records at the beginning, and
    with --head, which is the head that an earlier --verify gave, records cut off the end.
    """
    options.check_utf8("time or head", since, head)
    if head is not None and not verify:
        raise InputError("--head needs --verify")
    with output.json_only(json) as emit:
        from ptmo_secure.cloud.egress_log import EgressLog
        from ptmo_secure.cloud.paths import egress_folder
        from ptmo_secure.cloud.report import add_up, since_s

        begin_s = 0.0 if since is None else since_s(since)
        log = EgressLog(egress_folder(options.state_path(state)))
        checked = log.verify(head) if verify else None
        verified = None if checked is None else {"records": checked[0], "head": checked[1]}
        records = [record for record in log.records() if record.time >= begin_s]
        destinations = add_up(records)
        newest = records[len(records) - min(last, len(records)) :]
        emit(
            {
                "folder": str(log.folder),
                "since": since,
                "verified": verified,
                "destinations": [one.as_json() for one in destinations],
                "records": [record.as_json() for record in newest],
            }
        )
    if json:
        return
    screen = output.console()
    screen.print(_destinations(destinations))
    if newest:
        screen.print(_records(newest))
    if checked is not None:
        print(f"verified: {checked[0]} records, head {checked[1]}")


def _destinations(destinations: "Sequence[Destination]") -> "Table":
    from rich.table import Table

    from ptmo_secure.cloud.report import iso_time

    table = Table(title="What left the device")
    for heading in ("provider", "model", "sent", "bytes", "refused", "placeholders", "last"):
        right = heading in ("sent", "bytes", "refused")
        table.add_column(heading, justify="right" if right else "left")
    for one in destinations:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(one.kinds.items()))
        counts = (str(one.sent), str(one.sent_bytes), str(one.refused))
        names = (output.one_line(one.provider), output.one_line(one.model))
        table.add_row(*names, *counts, kinds or "none", iso_time(one.last_s))
    return table


def _records(records: "Sequence[EgressRecord]") -> "Table":
    from rich.table import Table

    from ptmo_secure.cloud.report import iso_time

    table = Table(title=f"The newest {len(records)} records")
    for heading in ("number", "time", "decision", "provider", "bytes", "placeholders", "why"):
        table.add_column(heading, justify="right" if heading in ("number", "bytes") else "left")
    for record in records:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(record.kinds.items()))
        refused = f"refused: {record.code}" + (f" at {record.place}" if record.place else "")
        table.add_row(
            str(record.number),
            iso_time(record.time),
            "sent" if record.decision == "sent" else output.one_line(refused),
            output.one_line(record.provider),
            str(record.bytes),
            kinds,
            record.why,
        )
    return table
