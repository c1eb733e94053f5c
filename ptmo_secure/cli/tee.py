"""`ptmo tee`: look at the simulated TEE."""

from ptmo_secure.cli import options, output


def status(json: options.Json = False) -> None:
    """Start both TEE processes, report what each says of itself, and end them.

    \b
    Examples:
      ptmo tee status
      ptmo tee status --json

    A TEE lives as long as the program that launched it: there is no daemon to ask.
    """
    with output.json_only(json) as emit:
        from tee_sim.client import TeeClient

        reports = {}
        with TeeClient.launch("core") as core, TeeClient.launch("guard") as guard:
            reports = {"core": core.status(), "guard": guard.status()}
        emit(reports)
    if json:
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Simulated TEE: isolation between processes, not hardware")
    table.add_column("")
    for role in reports:
        table.add_column(role)
    for key in reports["core"]:
        table.add_row(key, *(Text(_cell(report.get(key))) for report in reports.values()))
    output.console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {'yes' if on else 'no'}" for name, on in value.items())
    return str(value)


COMMANDS = (status,)
