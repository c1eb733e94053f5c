"""`ptmo attack kv`: what a reader of the device's memory recovers, per shield."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.config import KV_DTYPES, RESTORES, SHIELDS, choices
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.attacks.kv.matrix import ResultRow

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
ALL_SHIELDS = ",".join(SHIELDS)
ALL_RESTORES = ",".join(RESTORES)
Shields = Annotated[str, typer.Option("--shields", metavar="LIST", help=f"Any of {ALL_SHIELDS}.")]
Restores = Annotated[str, typer.Option("--restore", metavar="LIST", help=f"Any of {ALL_RESTORES}.")]
KvDtypes = Annotated[
    str, typer.Option("--kv-dtype", metavar="LIST", help=f"Any of {','.join(KV_DTYPES)}.")
]


def kv(
    shields: Shields = ALL_SHIELDS,
    restore: Restores = ALL_RESTORES,
    kv_dtype: KvDtypes = "int8",
    model: options.Model = options.DEFAULT_MODEL,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: .png, .svg or .pdf.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Read the KV cache as an attacker would.

    Says, per shield, how much of the text comes back.

    \b
    Examples:
      ptmo attack kv
      ptmo attack kv --shields none,seal --plot leak.svg
      ptmo attack kv --shields permute --restore tee --kv-dtype int8,fp16 --json
      ptmo attack kv --device cuda

    The attacks see the bytes of the KV pages and the public model, never a key. Lists are separated
    by commas.
    """
    chosen = choices("shield", shields, SHIELDS)
    restores = choices("restore", restore, RESTORES)
    kv_dtypes = choices("kv-dtype", kv_dtype, KV_DTYPES)
    options.engine_fields("none", "folded", "int8", threads, device)
    if plot is not None:
        check_plot(plot)
    with output.json_only(json) as emit:
        rows = run(model, chosen, restores, kv_dtypes, threads, device)
        if plot is not None:
            from ptmo_secure.attacks.kv import report

            report.plot(rows, plot)
        from ptmo_secure.results import envelope

        config: dict[str, object] = {
            "model": model,
            "shields": chosen,
            "restores": restores,
            "kv_dtypes": kv_dtypes,
            "threads": options.thread_count(threads),
            "device": device,
        }
        emit(envelope(output.command(), config, [row.as_json() for row in rows]))
    if not json:
        from ptmo_secure.attacks.kv import report

        report.show(rows, output.console())


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be drawn, before the attack runs for it.

    Raises:
        InputError: unknown suffix, no such folder, or matplotlib is not installed.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"{path}: a plot ends in {', '.join(PLOT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise InputError(f"{path}: needs matplotlib; run pip install matplotlib")


def run(
    model: str,
    shields: tuple[str, ...],
    restores: tuple[str, ...],
    kv_dtypes: tuple[str, ...],
    threads: int | None,
    device: str = "cpu",
) -> "list[ResultRow]":
    """Attack every configuration, with a progress bar."""
    from ptmo_secure.engine import registry

    options.check_open(model)
    path = registry.resolve(model)
    from ptmo_secure.attacks.kv import matrix
    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.engine.gguf_import import ModelSource

    def open_victim(cell: matrix.Cell) -> Engine:
        fields = options.engine_fields(
            cell.shield, cell.restore or "folded", cell.kv_dtype, threads, device
        )
        return Engine.load(model, **fields)

    with ModelSource(path) as source, output.progress("attacking") as report:
        return matrix.run(
            open_victim,
            source,
            shields=shields,
            progress=report,
            kv_dtypes=kv_dtypes,
            restores=restores,
        )


COMMANDS = (kv,)
