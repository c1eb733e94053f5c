"""Options that several commands share, and the engine they describe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmo_secure.cli import output
from ptmo_secure.config import DEFAULT_MODEL as DEFAULT_MODEL
from ptmo_secure.config import (
    DEVICES,
    KV_DTYPES,
    MANY_THREADS,
    RESTORES,
    SHIELDS,
    default_threads,
)
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.config import GenerationConfig
    from ptmo_secure.engine.engine import Engine

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME|FILE", help="A registry name or a GGUF file.")
]
Shield = Annotated[
    str, typer.Option("--shield", metavar="S", help=f"KV cache shield: {', '.join(SHIELDS)}.")
]
Restore = Annotated[
    str,
    typer.Option(
        "--restore",
        metavar="R",
        help=f"Where permute is undone: {', '.join(RESTORES)} (weights, or inside the TEE).",
    ),
]
KvDtype = Annotated[
    str, typer.Option("--kv-dtype", metavar="T", help=f"KV cache element: {', '.join(KV_DTYPES)}.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="D", help=f"What computes: {', '.join(DEVICES)}.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help=f"Engine threads [default: the cores, at most {MANY_THREADS}].",
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top-k", metavar="K", help="Likeliest tokens kept; 0 is all.")]
TopP = Annotated[float, typer.Option("--top-p", metavar="P", help="Probability mass kept.")]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", metavar="X", help="1 is none.")
]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before TEXT; repeatable.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the sampler.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")]
Adapter = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=PATH", help="LoRA adapter folder (PEFT); repeatable."),
]
State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Folder of the device's sealed state [default: $PTMO_STATE or ~/.local/state/ptmo].",
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show each step and its time on stderr.")]


def thread_count(threads: int | None) -> int:
    """What the user asked for, else the default of this machine."""
    return default_threads() if threads is None else threads


def engine_fields(
    shield: str, restore: str, kv_dtype: str, threads: int | None, device: str = "cpu"
) -> dict[str, Any]:
    """Fields of `EngineConfig`, checked before anything is loaded.

    Raises:
        InputError: a value is unknown or out of range.
    """
    from ptmo_secure.engine.config import EngineConfig

    fields: dict[str, Any] = {
        "shield": shield,
        "restore": restore,
        "kv_dtype": kv_dtype,
        "threads": thread_count(threads),
        "device": device,
    }
    EngineConfig.from_fields(**fields)
    return fields


def generation(
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    stop: list[str] | None,
    seed: int | None,
    system: str | None,
    adapters: Sequence[tuple[str, str]] = (),
) -> "GenerationConfig":
    """How the answer is made, checked before anything is loaded."""
    from ptmo_secure.config import GenerationConfig
    from ptmo_secure.engine.sampler import SamplingParams

    sampling = SamplingParams(temperature, top_k, top_p, repetition_penalty, seed)
    names = tuple(name for name, _ in adapters)
    return GenerationConfig(max_tokens, sampling, tuple(stop or ()), system, names)


def state_path(given: str | None) -> Path:
    """The folder of the device's sealed state.

    Raises:
        InputError: what was given is no path.
    """
    from ptmo_secure.engine.paths import path_text
    from ptmo_secure.sealed.paths import default_state_folder

    return default_state_folder() if given is None else Path(path_text("--state", given))


def adapter_paths(given: list[str] | None) -> list[tuple[str, str]]:
    """Names and paths of --adapter options, in order.

    Raises:
        InputError: one is not NAME=PATH.
    """
    pairs = []
    for option in given or ():
        check_utf8("adapter", option)
        name, equals, path = option.partition("=")
        if not name or not equals or not path:
            raise InputError(f"adapter {option!r} is not NAME=PATH")
        pairs.append((name, path))
    return pairs


def load_adapters(engine: "Engine", adapters: Sequence[tuple[str, str]]) -> None:
    """Load adapters under their names.

    Raises:
        InputError: one is missing, damaged or made for another model.
    """
    for name, path in adapters:
        engine.load_adapter(name, path)


def check_utf8(name: str, *texts: str | None) -> None:
    """Refuse arguments that were not valid UTF-8 on the command line."""
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise InputError(f"the {name} is not valid UTF-8") from None


def with_state(
    fields: dict[str, Any], given: str | None, model: str, adapters: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Add the device's state to an engine's fields, where it was given or is needed.

    Args:
        fields: of `EngineConfig`.
        given: --state.
        model, adapters: what will be loaded; a sealed file needs the device that sealed it.
    """
    from ptmo_secure.sealed.marks import is_sealed

    paths = [model, *(path for _, path in adapters)]
    if given is None and not any(is_sealed(Path(path)) for path in paths):
        return fields
    return {**fields, "tee_state": str(state_path(given))}


def check_open(model: str) -> None:
    """Refuse a sealed model in a command without --state, which opens one engine after another.

    Raises:
        InputError: it is sealed.
    """
    from ptmo_secure.sealed.marks import is_sealed

    if is_sealed(Path(model)):
        raise InputError(
            f"{model}: a sealed model: this command compares engines, and a device serves one: "
            "give it the model in the clear (ptmo model unseal)"
        )


def load_engine(model: str, fields: dict[str, Any]) -> "Engine":
    """Open the model with a progress bar.

    Raises:
        InputError: the model is unknown, not pulled or damaged.
    """
    from ptmo_secure.engine import registry

    registry.resolve(model)
    from ptmo_secure.engine.engine import Engine

    with output.progress("loading the model") as report:
        return Engine.load(model, progress=lambda d, n: report(d, n, ""), **fields)
