"""`ptmo doctor`: what this machine offers."""

import typer

from ptmo_secure.cli import options, output

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(json: options.Json = False) -> None:
    """Report what this machine offers.

    Python, CPU, kernel features, limits, models, and whether the TEE starts.

    \b
    Examples:
      ptmo doctor
      ptmo doctor --json

    Exit code 1 if something that is needed does not work. Paste the output into a bug report.
    """
    with output.json_only(json) as emit:
        from ptmo_secure.doctor import run_checks
        from ptmo_secure.results import envelope

        checks = run_checks()
        emit(envelope(output.command(), {}, [check.as_json() for check in checks]))
    if not json:
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False)
        for check in checks:
            status = Text(check.status, style=_STYLES[check.status])
            table.add_row(check.name, status, Text(output.one_line(check.detail)))
        output.console().print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
