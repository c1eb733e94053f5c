"""`ptmo serve --also`: further models beside the first, each with an engine of its own."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmo_secure.cli import options
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.privacy.sensitivity import SensitivityClassifier
    from ptmo_secure.serve.guard_queue import GuardQueue
    from ptmo_secure.serve.routing import Router

Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="NAME=MODEL",
        help="A further model, asked for by that name, with a cache of its own; repeatable.",
    ),
]
_MOST = 7
_KEPT_FILES = 768  # sessions of all models; a device knows 1,024 sealed files
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def other_models(first: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return names and models of --also options, in order.

    Args:
        first: id of the first model.
        given: as on the command line.

    Raises:
        InputError: one is not NAME=MODEL, a name is bad or taken, or there are too many.
    """
    pairs: list[tuple[str, str]] = []
    from ptmo_secure.serve.embedder import MODEL_ID

    for option in given or ():
        options.check_utf8("also", option)
        name, _, model = option.partition("=")
        if not model or _NAME.fullmatch(name) is None:
            raise InputError(f"--also {option!r} is not NAME=MODEL, NAME of letters, digits, _ . -")
        if name in (first, MODEL_ID, *(known for known, _ in pairs)):
            raise InputError(f"--also {option!r}: another model is called {name}")
        pairs.append((name, model))
    if len(pairs) > _MOST:
        raise InputError(f"--also: {len(pairs)} models; at most {_MOST} beside the first are taken")
    return pairs


def open_beside(
    first: "Router",
    engine: "Engine",
    others: Sequence[tuple[str, str]],
    fields: Mapping[str, Any],
    limits: Mapping[str, int],
    keep_sessions: int,
    folder: Path | None,
    classifier: "SensitivityClassifier",
    queue: "GuardQueue",
    held: ExitStack,
) -> "Router":
    """Return a router of the first model and of others, which are loaded here.

    Args:
        first: answers by the first model.
        engine: of it; its TEE is every other's.
        others: names and models.
        fields: of `EngineConfig`, for each.
        limits: of each scheduler.
        keep_sessions: of each model in memory.
        folder: of the server's state where sessions are kept over a restart, else None.
        classifier: the guard's verdict, for all.
        queue: turns at that guard, for all.
        held: ends what is opened.

    Raises:
        InputError: a model is unknown, not pulled or damaged.
    """
    from ptmo_secure.engine.scheduler import Scheduler
    from ptmo_secure.engine.shelf import SessionShelf
    from ptmo_secure.serve.local import LocalRouter
    from ptmo_secure.serve.models import ModelsRouter

    if not others:
        return first
    beside: dict[str, Router] = {}
    for name, model in others:
        other = held.enter_context(
            options.load_engine(model, {**fields, "tee": engine.sessions.host})
        )
        kept = None if folder is None else folder / "models" / name
        shelf = SessionShelf(other, keep_sessions, kept, min(256, _KEPT_FILES // (1 + len(others))))
        scheduler = held.enter_context(Scheduler(other, shelf=shelf, **limits))
        beside[name] = LocalRouter(other, scheduler, shelf, classifier, queue)
    return ModelsRouter(first, beside)
