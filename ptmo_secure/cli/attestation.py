"""`ptmo tee attest` and `ptmo tee verify`: a device's evidence, and its verifier."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

_DRAWN_NONCE_BYTES = 32
_MEASUREMENT_BYTES = 32
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_NONCE_HELP = "The verifier's nonce: 8 to 64 bytes in hexadecimal."


def attest(
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help=f"{_NONCE_HELP} [default: drawn]")
    ] = None,
    algorithm: Annotated[
        str, typer.Option("--algorithm", metavar="A", help="eddsa (Ed25519) or es256 (P-256).")
    ] = "eddsa",
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Have this device say what it is and how it stands, signed.

    \b
    Examples:
      ptmo tee attest --nonce 00112233445566778899aabbccddeeff
      ptmo tee attest --nonce $NONCE --json | ptmo tee verify --nonce $NONCE

    Prints an entity attestation token (RFC 9711) on stdout, and its claims on stderr. The first
    time, the device is made and its public keys are written to attestation_keys.json beside its
    state: the record that a verifier takes along once. It is a simulated TEE: no hardware stands
    behind the token.
    """
    from tee_sim.verify import NONCE_BYTES

    drawn = _nonce(nonce, NONCE_BYTES)
    with output.json_only(json) as emit:
        from ptmo_secure import attestation

        made = attestation.attest(options.state_path(state), drawn, algorithm)
        emit(made.as_json())
    if not made.enrolled:
        output.note(f"{made.enrolment} is another device's record: a verifier will refuse this one")
    if not json:
        print(made.text)
        claims = attestation.claims_as_json(made.evidence)
        output.console(stderr=True).print(_table("Evidence of a simulated TEE", claims))


def verify(
    nonce: Annotated[str, typer.Option("--nonce", metavar="HEX", help=_NONCE_HELP)],
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="The token; - is stdin.", show_default=False)
    ] = "-",
    enrolled: Annotated[
        list[str] | None,
        typer.Option(
            "--enrolled", metavar="FILE", help="Enrolment record of a device; repeatable."
        ),
    ] = None,
    measurement: Annotated[
        list[str] | None,
        typer.Option("--measurement", metavar="HEX", help="Software to accept too; repeatable."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require", metavar="NAME", help="Protection to insist on (names below); repeatable."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="FILE", help="What was seen of devices before."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check a device's evidence, and remember it.

    \b
    Examples:
      ptmo tee verify --nonce $NONCE token.txt
      ptmo tee verify --nonce $NONCE --enrolled keys.json < token.txt
      ptmo tee verify --nonce $NONCE --require arena --require system_calls token.txt

    Exit code 1 if a check failed: malformed, unknown_key, signature, profile, nonce, debug,
    measurement, protection, boot_count or counter; --json names it under "check". Keys come from
    enrolment records alone [default: attestation_keys.json of the default device]. The memory
    [default: verifier.json beside it] refuses devices that were rolled back. Draw a nonce for each
    token: it is what makes the answer fresh.

    \b
    --require takes: arena (keys in memfd_secret), dumpable_off, no_core_dumps, no_new_privs,
    parent_watch, no_network, own_user, system_calls, secret_memory. dumpable_off, no_core_dumps
    and no_new_privs are always required.
    """
    from tee_sim.verify import NONCE_BYTES

    asked = _nonce(nonce, NONCE_BYTES)
    accepted = [_hex("measurement", text, (_MEASUREMENT_BYTES,)) for text in measurement or ()]
    with output.json_only(json) as emit:
        from ptmo_secure import appraisal
        from ptmo_secure.attestation import ENROLMENT, claims_as_json
        from ptmo_secure.engine.paths import path_text
        from ptmo_secure.sealed.paths import default_state_folder

        given = [Path(path_text("--enrolled", path)) for path in enrolled or ()]
        kept = default_state_folder() / appraisal.MEMORY
        if memory is not None:
            kept = Path(path_text("--memory", memory))
        text = _read(Path(path_text("FILE", file)), appraisal.MAX_TOKEN_TEXT_BYTES)
        # Only now: in a pipe, the command that makes the record has ended when its output has.
        records = given or [default_state_folder() / ENROLMENT]
        refused = None
        claims: dict[str, Any] = {}
        try:
            evidence = appraisal.appraise(text, asked, records, kept, accepted, require or ())
            claims = claims_as_json(evidence)
            emit({"verified": True, "claims": claims})
        except appraisal.RefusedEvidence as failure:
            refused = failure
            emit({"verified": False, "check": failure.check, "error": str(failure)})
    if refused is not None:
        raise refused
    if not json:
        output.console().print(_table("Verified evidence of a simulated TEE", claims))


def _nonce(text: str | None, lengths: range) -> bytes:
    """The nonce given, or one drawn now.

    Raises:
        InputError: not hexadecimal, or of another length.
    """
    if text is None:
        import secrets

        return secrets.token_bytes(_DRAWN_NONCE_BYTES)
    return _hex("nonce", text, lengths)


def _hex(name: str, text: str, lengths: range | tuple[int, ...]) -> bytes:
    if not _HEX.fullmatch(text):
        raise InputError(f"the {name} {text!a} is not hexadecimal, two digits a byte")
    data = bytes.fromhex(text)
    if len(data) not in lengths:
        least, most = min(lengths), max(lengths)
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise InputError(f"the {name} has {len(data)} bytes, not {wanted}")
    return data


def _read(path: Path, most: int) -> bytes:
    """What stands in a file, or comes from stdin, up to `most` bytes.

    Raises:
        InputError: it cannot be read, or is longer.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > most:
        raise InputError(f"{path}: longer than any token")
    return data


def _table(title: str, claims: Mapping[str, object]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False)
    for name, value in claims.items():
        if isinstance(value, Mapping):
            for part, each in value.items():
                table.add_row(f"{name}.{part}", Text(str(each)))
        else:
            shown = ", ".join(value) or "none" if isinstance(value, list) else str(value)
            table.add_row(name, Text(shown))
    return table


COMMANDS = (attest, verify)
