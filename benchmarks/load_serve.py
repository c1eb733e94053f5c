"""Loads a server with streaming clients, and checks that each gets its own answers and no other's.

    python benchmarks/load_serve.py --clients 64 --seconds 60 --json
    python benchmarks/load_serve.py --url http://127.0.0.1:8765 --clients 8 --seconds 10

Each client is a user with a prompt and a seed of its own, who holds conversations of two turns, one
after the other. What it has to be answered is known: before the load the server answers every
conversation alone, without a session. An answer that differs is counted as cross-talk.

Without --url a server is started, with sessions kept per user. Exits 0 when there was no error and
no cross-talk, else 1; 2 on bad input. The clients run on the same cores as the server.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from script import MODEL_HELP, ArgumentParser, command_line, run

from ptmo_secure.cli import output
from ptmo_secure.config import at_least
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.results import envelope, read_lines, to_json

TOPICS = ("rivers", "bread", "chess", "stars", "bees", "trains", "salt", "maps")
SECOND = "Say the same in other words."
_START_S = 120.0
_READ_S = 120.0


@dataclass
class Load:
    """What the clients saw."""

    first_token_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)  # pieces of one answer
    answers: int = 0
    tokens: int = 0
    cached_tokens: int = 0
    errors: list[str] = field(default_factory=list)  # types and statuses, never text
    crosstalk: int = 0
    rss_bytes: list[int] = field(default_factory=list)  # once a second


@dataclass(frozen=True)
class Answer:
    """One answer, and when its pieces came."""

    text: str
    times_s: tuple[float, ...]  # since the request
    tokens: int
    cached_tokens: int


class Server:
    """The server under load.

    Args:
        url: where it is.
        pid: of its process; None if it was not started here.
    """

    def __init__(self, url: str, pid: int | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise InputError(f"--url {url!r} is not http://HOST:PORT")
        self.host, self.port, self.pid = parts.hostname, parts.port, pid
        self.model = ""

    async def chat(
        self, messages: Sequence[object], seed: int, user: str | None, tokens: int
    ) -> Answer:
        """Ask as a stream.

        Raises:
            EngineError: any other answer than a whole stream; the text names its kind.
        """
        body: dict[str, object] = {"model": self.model, "messages": messages, "stream": True}
        body |= {
            "temperature": 0.9,
            "seed": seed,
            "max_tokens": tokens,
            "stream_options": {"include_usage": True},
        }
        body |= {} if user is None else {"user": user}
        started = time.perf_counter()
        texts: list[str] = []
        times: list[float] = []
        usage: dict[str, Any] = {}
        async for event in self._events("POST", "/v1/chat/completions", json.dumps(body)):
            if "error" in event:
                raise EngineError(f"error event {event['error'].get('code')}")
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    texts.append(piece)
                    times.append(time.perf_counter() - started)
            usage = event.get("usage") or usage
        if not usage:
            raise EngineError("a stream without its end")
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Answer("".join(texts), tuple(times), usage["completion_tokens"], cached)

    async def find_model(self) -> None:
        """Ask which model there is."""
        async for event in self._events("GET", "/v1/models", ""):
            self.model = event["data"][0]["id"]

    async def _events(self, method: str, path: str, body: str) -> AsyncIterator[dict[str, Any]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            head = (
                f"{method} {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body.encode())}\r\n"
                "connection: close\r\n\r\n"
            )
            writer.write((head + body).encode())
            status = (await asyncio.wait_for(reader.readline(), _READ_S)).split()
            if status[1:2] != [b"200"]:
                raise EngineError(f"status {status[1].decode() if len(status) > 1 else 'none'}")
            async for line in _body_lines(reader):
                if line.startswith(b"{"):
                    yield json.loads(line)
                elif line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _body_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a response's body, chunked or not."""
    chunked = False
    while (line := await reader.readline()).strip():
        chunked = chunked or line.lower().startswith(b"transfer-encoding: chunked")
    if not chunked:
        yield await asyncio.wait_for(reader.read(), _READ_S)
        return
    held = b""
    while size := int(await asyncio.wait_for(reader.readline(), _READ_S), 16):
        held += (await reader.readexactly(size + 2))[:-2]
        *lines, held = held.split(b"\n")
        for line in lines:
            yield line


def first_turn(client: int) -> list[dict[str, str]]:
    """The conversation that a client begins."""
    text = (
        f"I am client {client}. Tell me {client + 2} things about {TOPICS[client % len(TOPICS)]}."
    )
    return [{"role": "user", "content": text}]


def second_turn(client: int, answer: str) -> list[dict[str, str]]:
    """How it goes on."""
    said = [{"role": "assistant", "content": answer}, {"role": "user", "content": SECOND}]
    return [*first_turn(client), *said]


async def expect(server: Server, client: int, tokens: int) -> tuple[str, str]:
    """Have the server answer a conversation alone."""
    first = await server.chat(first_turn(client), client, None, tokens)
    second = await server.chat(second_turn(client, first.text), client, None, tokens)
    return first.text, second.text


async def talk(
    server: Server, client: int, expected: tuple[str, str], tokens: int, end: float, load: Load
) -> None:
    """Hold conversations until the time is over; what is begun is ended."""
    while time.perf_counter() < end:
        messages = first_turn(client)
        for turn in (0, 1):
            try:
                answer = await server.chat(messages, client, f"user-{client}", tokens)
            except (EngineError, OSError, ValueError, asyncio.TimeoutError, EOFError) as error:
                known = isinstance(error, EngineError)
                load.errors.append(str(error) if known else type(error).__name__)
                await asyncio.sleep(0.1)
                break
            load.answers += 1
            load.tokens += answer.tokens
            load.cached_tokens += answer.cached_tokens
            load.crosstalk += answer.text != expected[turn]
            if answer.times_s:
                load.first_token_s.append(answer.times_s[0])
                pairs = zip(answer.times_s, answer.times_s[1:], strict=False)
                load.between_s += [b - a for a, b in pairs]
            messages = second_turn(client, answer.text)


async def measure(server: Server, clients: int, seconds: float, tokens: int) -> dict[str, object]:
    """Load a server; the figures."""
    await server.find_model()
    output.note(f"{clients} conversations, each alone first")
    expected = [await expect(server, client, tokens) for client in range(clients)]
    output.note(f"{clients} clients at once for {seconds:g} s")
    load = Load()
    started = time.perf_counter()
    watch = asyncio.create_task(_watch(server.pid, load))
    end = started + seconds
    await asyncio.gather(*(talk(server, n, expected[n], tokens, end, load) for n in range(clients)))
    took = time.perf_counter() - started
    watch.cancel()
    return {
        "model": server.model,
        "clients": clients,
        "seconds": took,
        "answers": load.answers,
        "distinct_expected": len(set(expected)),
        "errors": len(load.errors),
        "error_kinds": sorted(set(load.errors)),
        "crosstalk": load.crosstalk,
        "tokens": load.tokens,
        "tokens_per_s": load.tokens / took,
        "cached_prompt_tokens": load.cached_tokens,
        "first_token_ms": _quantiles(load.first_token_s),
        "between_pieces_ms": _quantiles(load.between_s),
        **_growth(load.rss_bytes),
    }


async def _watch(pid: int | None, load: Load) -> None:
    while pid is not None:
        load.rss_bytes.append(await asyncio.to_thread(resident_bytes, pid))
        await asyncio.sleep(1)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children: the TEE and the guard."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        facts = dict(line.split(":\t", 1) for line in read_lines(status) if ":\t" in line)
        if str(pid) in (facts.get("Pid"), facts.get("PPid")):
            total += int(facts.get("VmRSS", "0 kB").split()[0]) * 1024
    return total


def _growth(rss: Sequence[int]) -> dict[str, object]:
    """Resident memory in the second quarter of the load, when all is warm, and in the last."""
    if len(rss) < 8:
        return {"rss_mib": None, "rss_growth_mib": None}
    quarter = len(rss) // 4
    early = statistics.median(rss[quarter : 2 * quarter])
    late = statistics.median(rss[-quarter:])
    return {"rss_mib": late / 2**20, "rss_growth_mib": (late - early) / 2**20}


def _quantiles(seconds: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(seconds)
    if not ordered:
        return {"p50": None, "p95": None, "p99": None, "max": None}

    def at(share: float) -> float:
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": 1e3 * ordered[-1]}


@contextlib.contextmanager
def started_server(model: str, options: Sequence[str]) -> Iterator[Server]:
    """Run `ptmo serve` on a free port.

    Raises:
        EngineError: it does not start.
    """
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "ptmo_secure", "serve", "--port", "0", "--json"]
        process = subprocess.Popen(
            [*command, "--model", model, "--state", state, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise EngineError(f"ptmo serve ended with code {process.wait(_START_S)}")
            yield Server(json.loads(line)["url"], process.pid)
        finally:
            process.terminate()
            process.wait(_START_S)


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="of a running server; its memory is not measured")
    parser.add_argument("--model", default="smollm2-135m", help=MODEL_HELP)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens", type=int, default=16, help="of an answer, at most")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--max-step-tokens", type=int, default=32)
    parser.add_argument("--keep-sessions", type=int, default=32)
    parser.add_argument("--cache-tokens", type=int, default=16384)
    parser.add_argument("--persist", action="store_true", help="sessions that leave memory: sealed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    for name in ("clients", "tokens"):
        at_least(name, getattr(given, name), 1)
    if not 0 < given.seconds <= 86400:
        raise InputError(f"--seconds {given.seconds:g} is not in 0..86400")
    options = ["--rate", "0", "--max-concurrent", str(4 * given.clients)]
    for name in ("threads", "max_batch", "max_step_tokens", "keep_sessions", "cache_tokens"):
        options += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    options += ["--persist"] * given.persist
    with output.json_only(given.json) as emit, contextlib.ExitStack() as held:
        if given.url is not None:
            server = Server(given.url, None)
        else:
            server = held.enter_context(started_server(given.model, options))
        result = asyncio.run(measure(server, given.clients, given.seconds, given.tokens))
        config = {**vars(given), "load_average": os.getloadavg()[0]}
        emit(envelope(command_line(__file__, arguments), config, [result]))
        if not given.json:
            print(to_json(result))
    return int(bool(result["errors"] or result["crosstalk"]))


if __name__ == "__main__":
    run(main)
