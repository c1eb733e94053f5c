"""`ptmo model seal`, `ptmo model unseal`: models and adapters at rest."""

from pathlib import Path
from typing import Annotated

import typer

from ptmo_secure.cli import options, output

Source = Annotated[
    str,
    typer.Argument(metavar="PATH", help="A GGUF file, a registry name, or an adapter's folder."),
]
Sealed = Annotated[Path, typer.Argument(metavar="FILE", help="A sealed file.")]
Out = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="OUT", help="[default: PATH.sealed]")
]
NewOut = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="File or folder to write.")
]


def seal(
    path: Source, out: Out = None, state: options.State = None, json: options.Json = False
) -> None:
    """Seal a model file or an adapter for this device; nobody else opens it.

    \b
    Examples:
      ptmo model seal model.gguf
      ptmo model seal my-adapter -o mine.sealed --state ./device
      ptmo ask "What is Python?" --model model.gguf.sealed

    The source stays as it is: remove it when the sealed file is all that should be left. A sealed
    file opens under its own path as its newest version; a copy elsewhere as long as it is that.
    """
    options.check_utf8("path", path)
    with output.json_only(json) as emit:
        from ptmo_secure.sealed.bundle import seal_path
        from ptmo_secure.sealed.chunks import check_target
        from ptmo_secure.sealed.store import SealedStore

        source = _source(path)
        target = out or source.with_name(source.name + ".sealed")
        check_target(target)
        folder = options.state_path(state)
        with SealedStore.open(folder) as store, output.progress(source.name) as report:
            kind = seal_path(store, source, target, lambda done, n: report(done, n, "seal"))
        emit(
            {
                "source": str(source),
                "target": str(target),
                "kind": kind.name.lower(),
                "bytes": target.stat().st_size,
                "state": str(folder),
            }
        )
        if not json:
            print(
                f"{target}: {target.stat().st_size / 1e6:.1f} MB, for the device in {folder}; "
                f"{source} is as it was"
            )


def unseal(
    file: Sealed, out: NewOut, state: options.State = None, json: options.Json = False
) -> None:
    """Write what a sealed file holds, in the clear: a model file, or an adapter's folder.

    \b
    Examples:
      ptmo model unseal model.gguf.sealed -o model.gguf
      ptmo model unseal mine.sealed -o my-adapter --state ./device
    """
    with output.json_only(json) as emit:
        from ptmo_secure.sealed.bundle import unseal_path
        from ptmo_secure.sealed.store import SealedStore

        folder = options.state_path(state)
        with (
            SealedStore.open(folder, create=False) as store,
            output.progress(file.name) as report,
        ):
            kind = unseal_path(store, file, out, lambda done, n: report(done, n, "unseal"))
        emit(
            {
                "source": str(file),
                "target": str(out),
                "kind": kind.name.lower(),
                "state": str(folder),
            }
        )
        if not json:
            print(f"{out}: {kind.name.lower()}, in the clear")


def _source(path: str) -> Path:
    """Return the folder or file to seal, once it was looked at.

    Raises:
        InputError: neither an adapter's folder nor a model; a wrong checksum.
    """
    from ptmo_secure.engine import registry
    from ptmo_secure.engine.gguf_file import GgufFile

    if Path(path).is_dir():
        return Path(path)
    found = registry.resolve_verified(path)
    with GgufFile(found):
        return found


COMMANDS = (seal, unseal)
