"""`ptmo classify`: how sensitive a text is."""

from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.cli.ask import read_query

if TYPE_CHECKING:
    from ptmo_secure.types import Sensitivity

Text = Annotated[str, typer.Argument(metavar="TEXT", help="The text; '-' reads stdin.")]


def classify(
    text: Text,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what was found, and why the level.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Rate how sensitive a text is: PUBLIC, SEMI_SENSITIVE or PRIVATE, and a score from 0 to 1.

    \b
    Examples:
      ptmo classify "My password is secret123. What is Python?"
      ptmo classify "I was laid off on Monday. How do I write a CV?" --explain
      ptmo classify - --json < mail.txt

    What was found is shown by its place and kind, never by its text. The exit code is 1 when the
    guard gave no verdict, for example on more than 256 KiB; the text then counts as PRIVATE. The
    text of an argument is visible to other users of the machine in the list of processes; '-' is
    not.
    """
    query = read_query(text)
    with output.json_only(json) as emit:
        from ptmo_secure.privacy.sensitivity import SensitivityClassifier

        with SensitivityClassifier() as classifier:
            found = classifier.classify(query)
        emit(found.as_json())
    if not json:
        _show(found, explain=explain)
    elif explain:
        for line in found.reasons:
            output.note(line)
    if found.error:
        raise typer.Exit(1)


def _show(found: "Sensitivity", *, explain: bool) -> None:
    print(f"{found.level.value}  score {found.score:.2f}")
    if explain or found.error:
        for line in found.reasons:
            print(f"  {line}")
