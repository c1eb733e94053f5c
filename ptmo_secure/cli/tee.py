"""`ptmo tee`: look at the simulated TEE, have it attest itself, audit it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ptmo_secure.cli import attestation, audit, options, output

if TYPE_CHECKING:
    from rich.table import Table

    from ptmo_secure.tee_report import DeviceReport, TeeReport


def status(state: options.State = None, json: options.Json = False) -> None:
    """Start both TEE processes, report what each says of itself, and end them.

    \b
    Examples:
      ptmo tee status
      ptmo tee status --json
      ptmo tee status --state ./device

    A TEE lives as long as the program that launched it: there is no daemon to ask. The fields of
    the core stand at the top of the JSON object, those of the guard under "guard". "arena" is the
    memory that receives keys, and "downgrades" lists the protections that this machine does not
    give. Where DIR holds a device, the core is that device's: "counter" is its rollback counter,
    and this look is one of its starts. Otherwise "counter" is null, and "device" says why.
    """
    with output.json_only(json) as emit:
        from ptmo_secure.tee_report import look

        report = look(options.state_path(state))
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
    if report.device is not None:
        for field, text in _device(report.device).items():
            table.add_row(field, Text(text), "")
    table.add_row(
        "audit records", f"{report.audit.length}, head {report.audit.head.hex()[:16]}", ""
    )
    return table


def _device(device: "DeviceReport") -> dict[str, str]:
    if device.state is None:
        return {"counter": f"none: {device.problem} ({device.folder})"}
    return {
        "device": str(device.folder),
        "counter": str(device.state.value),
        "boots": str(device.state.boots),
        "sealed objects": str(device.state.objects),
    }


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


COMMANDS = (status, *attestation.COMMANDS, *audit.COMMANDS)
