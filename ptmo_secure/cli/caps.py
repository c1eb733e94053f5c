"""`ptmo caps`: what cloud calls may cost, and what they did cost."""

from collections.abc import Mapping
from typing import Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError


def caps(
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SCOPE.WHAT=N",
            help="A cap, e.g. day.usd=1; 'none' takes it away; repeatable.",
        ),
    ] = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Show and change what the calls to clouds may cost.

    \b
    Examples:
      ptmo caps
      ptmo caps --set day.usd=1 --set month.usd=10
      ptmo caps --set request.seconds=20 --set day.joules=500
      ptmo caps --set day.usd=none --json

    Scopes are request, day and month (UTC); what is counted are usd, seconds and joules. The caps
    are kept in DIR and hold for every program that uses it, a running ptmo serve too, from its next
    call on. Where a call could pass one, the device answers.
    """
    wanted = [_cap(text) for text in set_ or ()]
    with output.json_only(json) as emit:
        from ptmo_secure.cloud.caps import SpendCaps
        from ptmo_secure.cloud.paths import caps_path

        book = SpendCaps(caps_path(options.state_path(state)))
        for scope, what, most in wanted:
            SpendCaps().set_limit(scope, what, most)  # all are checked before one is stored
        for scope, what, most in wanted:
            book.set_limit(scope, what, most)
        status = book.status()
        emit(status)
    if not json:
        _show(status)


def _cap(text: str) -> tuple[str, str, float | None]:
    options.check_utf8("cap", text)
    name, equals, number = text.partition("=")
    scope, dot, what = name.partition(".")
    if not (equals and dot):
        raise InputError(f"cap {text!a} is not SCOPE.WHAT=N, e.g. day.usd=1")
    try:
        return scope, what, None if number == "none" else float(number)
    except ValueError:
        raise InputError(f"cap {text!a}: {number!a} is neither a number nor 'none'") from None


def _show(status: Mapping[str, object]) -> None:
    from rich.table import Table

    from ptmo_secure.cloud.caps import SCOPES
    from ptmo_secure.cloud.pricing import DIMENSIONS

    table = Table(title="What calls to clouds may cost, and did cost")
    for heading in ("", *DIMENSIONS):
        table.add_column(heading, justify="right" if heading else "left")
    limits = status["limits"]
    for scope in SCOPES:
        row = limits.get(scope, {}) if isinstance(limits, Mapping) else {}
        table.add_row(f"cap a {scope}", *(_number(row.get(what)) for what in DIMENSIONS))
    for scope in SCOPES[1:]:
        spent = status[scope]
        if isinstance(spent, Mapping):
            table.add_row(f"this {scope}", *(_number(spent.get(what)) for what in DIMENSIONS))
    output.console().print(table)


def _number(value: object) -> str:
    return "none" if not isinstance(value, (int, float)) else f"{value:.6g}"
