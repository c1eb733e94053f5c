"""`ptmo tee`: look at the simulated TEE, and have it attest itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ptmo_secure.cli import attestation, options, output

if TYPE_CHECKING:
    from rich.table import Table

    from ptmo_secure.tee_report import TeeReport


def status(json: options.Json = False) -> None:
    """Start both TEE processes, report what each says of itself, and end them.

    \b
    Examples:
      ptmo tee status
      ptmo tee status --json

    A TEE lives as long as the program that launched it: there is no daemon to ask. The fields of
    the core stand at the top of the JSON object, those of the guard under "guard". "arena" is the
    memory that receives keys, "downgrades" lists the protections that this machine does not give,
    and "counter" is null as long as no rollback counter is kept.
    """
    with output.json_only(json) as emit:
        from ptmo_secure.tee_report import look

        report = look()
        emit(report.as_json())
    if not json:
        output.console().print(_table(report))


def _table(report: "TeeReport") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Simulated TEE: isolation between processes, not hardware")
    for heading in ("", "core", "guard"):
        table.add_column(heading)
    for field, value in report.core.items():
        if field == "role":
            continue
        other = report.guard.get(field)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            for name, on in value.items():
                table.add_row(name, _protection(on, name), _protection(other.get(name), name))
        else:
            table.add_row(field, Text(str(value)), Text(str(other)))
    table.add_row("arena", _arena(report.arena), "")
    table.add_row(
        "audit records", f"{report.audit.length}, head {report.audit.head.hex()[:16]}", ""
    )
    return table


def _protection(on: object, name: str) -> str:
    from ptmo_secure.tee_report import loss

    return "[green]in force[/]" if on else f"[yellow]no: {loss(name)}[/]"


def _arena(kind: str | None) -> str:
    from ptmo_secure.tee_report import BEST_ARENA, loss

    if kind == BEST_ARENA:
        return f"[green]{kind}[/]"
    if kind is None:
        return "[yellow]none: no native module, or memory cannot be locked[/]"
    return f"[yellow]{kind}: {loss('arena')}[/]"


COMMANDS = (status, *attestation.COMMANDS)
