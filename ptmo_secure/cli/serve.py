"""`ptmo serve`: an OpenAI-compatible server; `ptmo serve keys`: its API keys."""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmo_secure.cli import clouds, options, output, served_models
from ptmo_secure.errors import InputError, not_installed

if TYPE_CHECKING:
    from ptmo_secure.serve.routing import Router
    from ptmo_secure.serve.service import ServeSettings
    from ptmo_secure.serve.users import KeyFile

_FOLDER = "serve"  # of the device's state

Host = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="To listen on; beyond loopback keys are asked."),
]
Port = Annotated[int, typer.Option("--port", metavar="N", help="0 takes a free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="Clients may call it that; repeatable."),
]
Keys = Annotated[
    str | None,
    typer.Option("--keys", metavar="FILE", help="API keys [default: serve/keys.json of --state]."),
]
Persist = Annotated[
    bool,
    typer.Option(
        "--persist/--no-persist", help="Keep users' sessions, sealed under --state, over a restart."
    ),
]


def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    model: options.Model = options.DEFAULT_MODEL,
    also: served_models.Also = None,
    shield: options.Shield = "seal",
    restore: options.Restore = "folded",
    kv_dtype: options.KvDtype = "int8",
    device: options.Device = "cpu",
    threads: options.Threads = None,
    adapter: options.Adapter = None,
    state: options.State = None,
    keys: Keys = None,
    allow_host: AllowHost = None,
    persist: Persist = False,
    keep_sessions: Annotated[
        int, typer.Option("--keep-sessions", metavar="N", help="Users' sessions in memory.")
    ] = 16,
    cache_tokens: Annotated[
        int | None,
        typer.Option("--cache-tokens", metavar="N", help="KV rows of all sessions [one context]."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", help="Answers decoded together.")
    ] = 16,
    max_step_tokens: Annotated[
        int,
        typer.Option("--max-step-tokens", metavar="N", help="Rows a step computes, prompts' too."),
    ] = 32,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", metavar="N", help="Requests at once, others refused.")
    ] = 128,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")
    ] = 1024,
    max_body_bytes: Annotated[
        int, typer.Option("--max-body-bytes", metavar="N", help="Largest request.")
    ] = 1 << 20,
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", help="Requests a minute and key; 0 is no limit.")
    ] = 600.0,
    burst: Annotated[
        int, typer.Option("--burst", metavar="N", help="Requests of a key that may come at once.")
    ] = 128,
    grace: Annotated[
        float, typer.Option("--grace", metavar="S", help="For answers under way at the end.")
    ] = 10.0,
    cloud: clouds.Cloud = None,
    cloud_model: clouds.CloudModel = None,
    providers: clouds.Providers = None,
    cloud_timeout: clouds.CloudTimeout = None,
    policy: clouds.Policy = "rule",
    cascade: clouds.Cascade = None,
    delegate: clouds.Delegate = False,
    hedge: clouds.Hedge = None,
    cache: clouds.Cache = "off",
    verbose: Annotated[
        bool, typer.Option("--verbose", help="One line on stderr for each request, without text.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Serve the model to OpenAI clients; SIGTERM or Ctrl-C ends it.

    \b
    Examples:
      ptmo serve
      ptmo serve --port 8765 --persist
      ptmo serve --also base=gemma3-270m
      ptmo serve keys add ann
      ptmo serve --cloud http://127.0.0.1:8766/v1 --hedge 2
      ptmo serve --host 0.0.0.0 --allow-host box.example
      curl -N http://127.0.0.1:8765/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model":"smollm2-135m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'

    With --json the one object, printed once requests are taken, tells the address.
    """
    if context.invoked_subcommand is not None:
        return
    _require_packages()
    from ptmo_secure.serve.service import ServeSettings

    adapters = options.adapter_paths(adapter)
    fields = options.engine_fields(shield, restore, kv_dtype, threads, device)
    others = served_models.other_models(_model_id(model), also)
    fields = options.with_state(fields, state, model, [*adapters, *others])
    folder = options.state_path(state)
    if persist:
        fields["tee_state"] = str(folder)
    if cache_tokens is not None:
        fields["cache_tokens"] = cache_tokens
    settings = ServeSettings(
        model=_model_id(model),
        host=host,
        port=port,
        hosts=tuple(allow_host or ()),
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        max_concurrent=max_concurrent,
        requests_per_minute=rate or None,
        burst=burst,
        grace_s=grace,
        others=tuple(name for name, _ in others),
    )
    if verbose:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
        logging.getLogger("ptmo.serve").setLevel(logging.INFO)
    key_file = _key_file(folder, keys)
    if settings.needs_key and not key_file.keys():
        raise InputError(
            f"--host {host}: beyond loopback a key is needed: ptmo serve keys add NAME"
        )
    places = folder / _FOLDER if persist else None
    asked = clouds.Asked(
        cloud,
        cloud_model,
        policy,
        cascade,
        delegate,
        hedge,
        cache=cache,
        state=state,
        providers=providers,
        timeout=cloud_timeout,
    )
    asked.check()
    limits = {
        "max_batch": max_batch,
        "max_waiting": max_concurrent * 8,
        "max_step_tokens": max_step_tokens,
    }
    _run(
        settings,
        key_file,
        places,
        model,
        others,
        fields,
        adapters,
        limits,
        keep_sessions,
        asked,
        json,
    )


def _run(
    settings: "ServeSettings",
    keys: "KeyFile",
    folder: Path | None,
    model: str,
    others: Sequence[tuple[str, str]],
    fields: dict[str, Any],
    adapters: Sequence[tuple[str, str]],
    limits: dict[str, int],
    keep_sessions: int,
    asked: clouds.Asked,
    json: bool,
) -> None:
    from ptmo_secure.engine.scheduler import Scheduler
    from ptmo_secure.engine.shelf import SessionShelf
    from ptmo_secure.hybrid.guarding import SharedGuard
    from ptmo_secure.privacy.sensitivity import SensitivityClassifier
    from ptmo_secure.serve.guard_queue import GuardQueue
    from ptmo_secure.serve.local import LocalRouter
    from ptmo_secure.serve.server import open_socket, serve, url_of
    from ptmo_secure.serve.service import Service
    from ptmo_secure.serve.users import Names

    with ExitStack() as held:
        listener = held.enter_context(open_socket(settings.host, settings.port))
        engine = held.enter_context(options.load_engine(model, fields))
        options.load_adapters(engine, adapters)
        names = Names(folder)
        shelf = SessionShelf(engine, keep_sessions, None if folder is None else folder / "sessions")
        scheduler = held.enter_context(Scheduler(engine, shelf=shelf, **limits))
        guard = SharedGuard()
        held.callback(guard.close)
        classifier = SensitivityClassifier(guard)
        classifier.classify("")  # the guard starts now, not at the first request
        queue = GuardQueue()
        router: Router = LocalRouter(engine, scheduler, shelf, classifier, queue)
        router = served_models.open_beside(
            router, engine, others, fields, limits, keep_sessions, folder, classifier, queue, held
        )
        if asked.cloud is not None:
            router = clouds.open_router(router, engine, guard, queue, asked, held)
        loaded = tuple(name for name, _ in adapters)
        service = Service.of(settings, router, keys, names, loaded)
        url = url_of(listener)

        def ready(_: object) -> None:
            if not json:
                output.note(f"{settings.model} at {url}/v1 (a page at {url}/); Ctrl-C ends it")
                return
            from ptmo_secure.results import to_json

            told = {"url": url, "model": settings.model, "keys": keys.asked_for}
            print(to_json(told), flush=True)

        serve(service, listener, ready)


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME", help="It may use this one; repeatable."),
    ] = None,
    state: options.State = None,
    keys: Keys = None,
    json: options.Json = False,
) -> None:
    """Make an API key and print it, once: only its hash is kept."""
    key_file = _key_file(options.state_path(state), keys)
    with output.json_only(json) as emit:
        key, secret = key_file.add(name, adapter or ())
        if not json:
            print(secret)
        output.note(f"key {key.id} of {key.name}: it is not shown again")
        emit({"id": key.id, "name": key.name, "key": secret, "adapters": list(key.adapters)})


def show(state: options.State = None, keys: Keys = None, json: options.Json = False) -> None:
    """List the API keys there are, without the keys."""
    found = _key_file(options.state_path(state), keys).keys()
    with output.json_only(json) as emit:
        for key in found if not json else ():
            made = datetime.fromtimestamp(key.created, timezone.utc).strftime("%Y-%m-%d")
            print(f"{key.id}  {made}  {key.name}  {' '.join(key.adapters)}".rstrip())
        rows = [{"id": k.id, "name": k.name, "created": k.created} for k in found]
        emit({"keys": rows})


def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="As in the list.")],
    state: options.State = None,
    keys: Keys = None,
    json: options.Json = False,
) -> None:
    """Take an API key back; a running server refuses it from its next request on."""
    with output.json_only(json) as emit:
        count = _key_file(options.state_path(state), keys).revoke(which)
        output.note(f"revoked: {count}")
        emit({"revoked": count})


def group() -> typer.Typer:
    """Return `ptmo serve` with its subcommands."""
    made = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    made.callback(invoke_without_command=True)(serve)
    keys = typer.Typer(
        help="The API keys of ptmo serve.", pretty_exceptions_enable=False, rich_markup_mode=None
    )
    for name, command in (("add", add), ("list", show), ("revoke", revoke)):
        keys.command(name)(command)
    made.add_typer(keys, name="keys")
    return made


def _key_file(folder: Path, given: str | None) -> "KeyFile":
    _require_packages()
    from ptmo_secure.engine.paths import path_text
    from ptmo_secure.serve.users import KEYS_FILE, KeyFile

    path = folder / _FOLDER / KEYS_FILE if given is None else Path(path_text("--keys", given))
    return KeyFile(path)


def _model_id(model: str) -> str:
    """Return what requests call a model: its registry name, or its file's without the ending."""
    name = Path(model).stem if model.endswith(".gguf") or "/" in model else model
    return name.replace("+", "-")


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401 - only to know whether it is there
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise not_installed("ptmo serve", "serve") from None
