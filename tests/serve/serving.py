"""Servers for tests: one in a thread of this process, and one that is a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.serve.embedder import Embedder
from ptmo_secure.serve.local import LocalRouter
from ptmo_secure.serve.routing import ChatRequest, Event, Outcome, Preview, Router, Routing
from ptmo_secure.serve.server import open_socket, serve, url_of
from ptmo_secure.serve.service import ServeSettings, Service
from ptmo_secure.serve.users import KeyFile, Names
from ptmo_secure.types import Level, Route
from tests.fakes import FakeGuard

MODEL = "tiny"
HELLO = [{"role": "user", "content": "hello there"}]
DONE = Outcome("stop", prompt_tokens=3, completion_tokens=2, crossings=1, usd=0.25, seconds=0.5)


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    service: Service | None = None
    engine: Engine | None = None

    def client(self, key: str = "none", **fields: Any) -> openai.OpenAI:
        """The unmodified client, without retries unless told."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **fields}
        )

    def post(self, path: str, body: object, *curl: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of a POST by curl."""
        text = body if isinstance(body, str) else json.dumps(body)
        given = ["--data-binary", "@-", *curl]
        if not any("content-type" in part for part in curl):
            given += ["-H", "content-type: application/json"]
        return read(run_curl(f"{self.url}{path}", *given, text=text))

    def get(self, path: str, *curl: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of a GET by curl."""
        return read(run_curl(f"{self.url}{path}", *curl))


def run_curl(url: str, *given: str, text: str = "") -> bytes:
    """What curl -i prints."""
    command = ["curl", "-sS", "-i", "-N", "--max-time", "60", *given, url]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout


def read(printed: bytes) -> tuple[int, Any, dict[str, str]]:
    """Status, body (JSON where it is) and headers of what curl -i printed."""
    head, _, body = printed.partition(b"\r\n\r\n")
    if b" 100 " in head.split(b"\r\n")[0]:
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    value: Any = body.decode()
    if headers.get("content-type") == "application/json":
        value = json.loads(value)
    return int(lines[0].split()[1]), value, headers


class FakeRouter:
    """A router that gives the events it is told to.

    Args:
        events: what every answer yields.
        fails: raised after them.
        pause: awaited before each event.
        routing: what every request is routed as.
    """

    def __init__(
        self,
        events: Sequence[Event] = (DONE,),
        fails: Exception | None = None,
        pause: Callable[[], Any] | None = None,
        routing: Routing | None = None,
    ) -> None:
        self.events, self.fails, self.pause = list(events), fails, pause
        self.routing = routing or Routing(Route.LOCAL, Level.PUBLIC, 0.0)
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.closed = False

    async def check(self, request: ChatRequest) -> None:
        """Refuse nothing."""

    async def route(self, request: ChatRequest) -> Routing:
        return self.routing

    async def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.running += 1
        try:
            for event in self.events:
                if self.pause is not None:
                    await self.pause()
                yield event
            if self.fails is not None:
                raise self.fails
        finally:
            self.running -= 1

    async def preview(self, request: ChatRequest) -> Preview:
        self.requests.append(request)
        return Preview(self.routing, ())

    def gauges(self) -> Mapping[str, float]:
        return {"running": float(self.running)}

    async def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def serving(
    router: Router,
    *,
    keys: Path | None = None,
    adapters: Sequence[str] = (),
    engine: Engine | None = None,
    embedder: Embedder | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a router in a thread; unless told, whatever was pulled here, without an encoder."""
    given = ServeSettings(**{"model": MODEL, "port": 0, "grace_s": 0.5, **settings})
    names = Names(None)
    embedder = embedder or Embedder(is_here=lambda: False)
    key_file = KeyFile(keys or Path("/nonexistent"))
    service = Service.of(given, router, key_file, names, adapters, embedder)
    listener = open_socket("127.0.0.1", 0)
    url = url_of(listener)
    ready = threading.Event()
    stops: list[Callable[[], None]] = []

    def note(stop: Callable[[], None]) -> None:
        stops.append(stop)
        ready.set()

    thread = threading.Thread(target=serve, args=(service, listener, note), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Served(url, service, engine)
    finally:
        stops[0]()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def serving_model(
    model: Path,
    *,
    guard: FakeGuard | None = None,
    folder: Path | None = None,
    max_batch: int = 8,
    keep: int = 8,
    fields: Mapping[str, Any] | None = None,
    adapters: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a tiny model; its guard says what it is told to."""
    given = {"threads": 1, "cache_tokens": 4096, "shield": "seal", **(fields or {})}
    with Engine.load(model, **given) as engine:
        for name, weights in (adapters or {}).items():
            engine.add_adapter(name, weights(engine.model))
        shelf = SessionShelf(engine, keep, folder)
        with (
            Scheduler(engine, max_batch=max_batch, shelf=shelf) as scheduler,
            SensitivityClassifier(guard or FakeGuard()) as classifier,
        ):
            router = LocalRouter(engine, scheduler, shelf, classifier)
            named = tuple(adapters or ())
            with serving(router, engine=engine, adapters=named, **settings) as served:
                yield served


class ServeProcess:
    """`ptmo serve` as a user starts it.

    Args:
        arguments: of the command, without --port and --json.
        state: folder of the device's state.
    """

    def __init__(self, state: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "ptmo_secure", "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(
            [*command, *arguments],
            env={**os.environ, "PTMO_STATE": str(state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.told = json.loads(line)
        self.served = Served(self.told["url"])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to end; its exit code and what it said on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def __enter__(self) -> "ServeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def text_of(stream: Any, index: int = 0) -> str:
    """The text of a choice's chunks."""
    parts = []
    for chunk in stream:
        for choice in chunk.choices:
            if choice.index == index:
                parts.append(choice.delta.content or "")
    return "".join(parts)
