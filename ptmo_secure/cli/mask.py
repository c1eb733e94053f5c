"""`ptmo mask`, `ptmo unmask`: private values out of a text, and back into an answer."""

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError

_STYLES = "placeholder, surrogate, generalise"
_DAY_S = 86_400
Session = Annotated[
    str | None,
    typer.Option("--session", metavar="NAME", help="Keep the values, sealed, under this name."),
]
User = Annotated[
    str, typer.Option("--user", metavar="NAME", help="Whose session it is [default: nobody's].")
]


def mask(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; '-' reads stdin.")],
    style: Annotated[
        str, typer.Option("--style", metavar="S", help=f"What is shown instead: {_STYLES}.")
    ] = "placeholder",
    session: Session = None,
    user: User = "",
    ttl_s: Annotated[
        int,
        typer.Option(
            "--ttl", metavar="S", help="Of a new session: forgotten S seconds after its last text."
        ),
    ] = 7 * _DAY_S,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Show a text without its private values.

    \b
    Examples:
      ptmo mask "Call Dr. Kim at 010-1234-5678 about my HIV test."
      ptmo mask "I am 34 and live in Berlin." --style generalise
      ptmo mask - --json < letter.txt
      ptmo mask - --session letter < letter.txt

    The values stay in the guard process and end with it. `ptmo unmask` puts them back into an
    answer when it is given the same text again. With --session the guard seals them for this
    device, and `ptmo unmask --session` needs no text; `ptmo privacy` lists and forgets. The text of
    an argument is visible to other users of the machine in the list of processes; '-' is not.
    """
    from ptmo_secure.privacy.masking import Masking

    words = _read("text", text)
    options.check_utf8("session or user", session, user)
    with output.json_only(json) as emit, ExitStack() as held:
        if session is None:
            masking = held.enter_context(Masking.open(user))
        else:
            folder = options.state_path(state)
            masking = held.enter_context(Masking.resume(folder, session, user, ttl_s=ttl_s))
        masked = masking.mask(words, style)
        emit(
            {
                "text": masked.text,
                "style": style,
                "reversible": style != "generalise",
                "level": masked.level,
                "score": masked.score,
                "reason": masked.reason,
                "topics": masked.topics,
                "session": session,
                "spans": [
                    {
                        "kind": span.kind,
                        "start": span.start,
                        "end": span.end,
                        "severity": span.severity,
                        "masked_start": place.start,
                        "masked_end": place.end,
                    }
                    for span, place in zip(masked.spans, masked.places, strict=True)
                ],
            }
        )
        if not json:
            output.write(masked.text + "\n")


def unmask(
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="An answer; '-' reads stdin.")],
    original: Annotated[
        list[str] | None,
        typer.Option(
            "--original",
            metavar="TEXT",
            help="What was masked, turn by turn; repeatable, '-' reads stdin.",
        ),
    ] = None,
    session: Session = None,
    user: User = "",
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Put private values back into an answer to a text that `ptmo mask` masked.

    \b
    Examples:
      ptmo unmask "I called [PERSON_1]." --original "Call Dr. Kim at 010-1234-5678"
      ptmo unmask "Dear <person_1>," --original - < letter.txt
      ptmo unmask - --session letter < answer.txt

    With --session the values are those that `ptmo mask --session` kept, surrogates too. Otherwise
    no process keeps them, so the text is given again: the same texts in the same order get the
    same placeholders, while surrogates are drawn anew and cannot be put back this way. What was
    not masked stays as it is.
    """
    from ptmo_secure.privacy.masking import Masking

    if not original and session is None:
        raise InputError("--original or --session is missing: give the text that was masked")
    if original and session is not None:
        raise InputError("--original and --session exclude each other")
    if [answer, *(original or ())].count("-") > 1:
        raise InputError("'-' is given twice: stdin is read once")
    options.check_utf8("session or user", session, user)
    turns = [_read("original", turn) for turn in original or ()]
    words = _read("answer", answer)
    with output.json_only(json) as emit, ExitStack() as held:
        if session is None:
            masking = held.enter_context(Masking.open(user))
        else:
            masking = held.enter_context(Masking.resume(options.state_path(state), session, user))
        for turn in turns:
            masking.mask(turn)
        restored = masking.unmask(words)
        emit({"text": restored, "changed": restored != words})
        if not json:
            output.write(restored + "\n")


def _read(name: str, text: str) -> str:
    """Return an argument's text, from stdin if it is '-'.

    Raises:
        InputError: it is not valid UTF-8.
    """
    if text == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise InputError(f"the {name} on stdin is not valid UTF-8") from None
    options.check_utf8(name, text)
    return text
