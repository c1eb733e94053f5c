"""The tree of commands. Each module imports what it runs only when it runs."""

from typing import Annotated

import typer

from ptmo_secure import __version__
from ptmo_secure.cli import (
    ask,
    attack,
    bench,
    caps,
    chat,
    classify,
    demo,
    doctor,
    egress,
    guard,
    mask,
    model,
    offload,
    offload_report,
    offload_train,
    privacy,
    seal,
    serve,
    tee,
)

HELP = """Private LLM inference on small devices: a shielded engine, its simulated TEE, and the
attacks that test it.

\b
Start here:
  ptmo demo                            everything, explained step by step
  ptmo ask "What is Python?"           one query
  ptmo attack kv                       read the KV cache as an attacker would
"""

app = typer.Typer(
    help=HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ptmo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and stop."
        ),
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


root.__doc__ = None  # the help text of the program is HELP

app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("mask")(mask.mask)
app.command("unmask")(mask.unmask)
app.command("demo")(demo.demo)
app.command("audit")(egress.audit)
app.command("caps")(caps.caps)
app.command("bench")(bench.bench)
app.command("classify")(classify.classify)
app.command("doctor")(doctor.doctor)

_GROUPS = (
    ("model", "Fetch, list, check, convert and seal models.", model.COMMANDS + seal.COMMANDS),
    ("attack", "Attack the engine and report what leaks.", attack.COMMANDS),
    ("guard", "Measure and train the PII guard.", guard.COMMANDS),
    ("privacy", "The budget of what may be disclosed.", privacy.COMMANDS),
    (
        "offload",
        "Choose between the device and a cloud.",
        offload.COMMANDS + offload_train.COMMANDS + offload_report.COMMANDS,
    ),
    ("tee", "Look at the simulated TEE, and have it attest itself.", tee.COMMANDS),
)
for _name, _help, _commands in _GROUPS:
    _group = typer.Typer(help=_help, pretty_exceptions_enable=False, rich_markup_mode=None)
    _group.callback()(lambda: None)
    for _command in _commands:
        _group.command(_command.__name__)(_command)
    app.add_typer(_group, name=_name)
app.add_typer(serve.group(), name="serve")
