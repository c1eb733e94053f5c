"""llama-cpp-python's OpenAI server with Gemma-3-270M, and what stands before it and keeps bytes."""

import contextlib
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.models import peer_python

from ptmo_secure.engine import registry
from ptmo_secure.errors import InputError

CLOUD_MODEL, NAME = "gemma3-270m", "gemma"
_START_S = 120.0  # on a busy machine; some seconds elsewhere
# Gemma-3-270M is a base model without a template; in this form it answers some questions.
_FORMAT = "gemma"


class Recorder:
    """Passes connections of loopback on to a port, and keeps what came from the client."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._kept, self._lock = bytearray(), threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def received(self) -> bytes:
        with self._lock:
            return bytes(self._kept)

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    with self._lock:
                        self._kept += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def needed() -> tuple[Path, Path]:
    """The Python of `make bench-peers`, and the model's file; skips where one is not there."""
    python = peer_python(None)
    has_server = python is not None and (
        subprocess.run(
            [python, "-c", "import llama_cpp.server.app"], capture_output=True
        ).returncode
        == 0
    )
    try:
        model = registry.resolve(CLOUD_MODEL)
    except InputError:
        has_server = False
    if python is None or not has_server:
        pytest.skip(f"needs make bench-peers and ptmo model pull {CLOUD_MODEL}")
    return python, model


@contextlib.contextmanager
def llamacpp() -> Iterator[Recorder]:
    """Run the server behind a recorder."""
    python, model = needed()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"model": model, "model_alias": NAME, "port": port, "host": "127.0.0.1"}
    given |= {"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1}
    given |= {"logits_all": True, "chat_format": _FORMAT}
    command = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [python, "-m", "llama_cpp.server", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    recorder = Recorder(port)
    try:
        _wait(port, process)
        yield recorder
    finally:
        recorder.close()
        process.terminate()
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        assert process.poll() is None, "llama_cpp.server ended at once"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"llama_cpp.server did not answer in {_START_S} s")
