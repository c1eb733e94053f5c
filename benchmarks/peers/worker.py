"""The caller's side of the protocol: a worker process that is measured."""

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptmo_secure.errors import EngineError

_FOLDER = Path(__file__).resolve().parent
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Worker:
    """One engine in a process of its own.

    Attributes:
        name: for messages.
        variants: the ways it can run, known after `load`.
        version: what it calls itself.
    """

    def __init__(self, name: str, python: str | Path, script: str | Path) -> None:
        """Start it.

        Args:
            name: for messages.
            python: the interpreter.
            script: a file of this folder, or another's path.

        Raises:
            EngineError: the interpreter cannot be run.
        """
        self.name = name
        self.variants: tuple[str, ...] = ()
        self.version = ""
        try:
            self._process = subprocess.Popen(
                [str(python), str(_FOLDER / script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise EngineError(f"{name}: {python} cannot be run: {error.strerror}") from None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process: its input ends, and so does it. Idempotent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def load(self, model: Path, *, threads: int, context_tokens: int, kv_dtype: str) -> None:
        """Have it load a model."""
        reply = self.request(
            do="load",
            model=str(model),
            threads=threads,
            context_tokens=context_tokens,
            kv_dtype=kv_dtype,
        )
        self.variants = tuple(reply["variants"])
        self.version = reply["version"]

    def measure(self, ids: Sequence[int], decode_tokens: int, variant: str) -> dict[str, Any]:
        """Have it run a prompt in an empty cache and decode greedily.

        Returns:
            {"prefill_s", "decode_s", "tokens"}.
        """
        return self.request(
            do="measure", ids=list(ids), decode_tokens=decode_tokens, variant=variant
        )

    def request(self, **fields: object) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises:
            EngineError: the worker ended, answered nonsense, or reports a failure.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EngineError(f"{self.name}: no pipe to the worker")
        try:
            stdin.write(json.dumps(fields) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):
            line = ""
        if not line:
            code = self._process.wait()
            raise EngineError(f"{self.name}: the worker ended with code {code}")
        try:
            reply = json.loads(line)
        except ValueError:
            raise EngineError(f"{self.name}: the worker's reply is not JSON") from None
        if not isinstance(reply, dict) or reply.get("ok") is not True:
            reason = reply.get("error") if isinstance(reply, dict) else reply
            raise EngineError(f"{self.name}: {reason}")
        return reply

    def cpu_seconds(self) -> float:
        """Processor time of the worker's threads so far: in another's turn it must not grow."""
        after_name = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(after_name[11]), int(after_name[12])
        return (user + system) / _TICKS_PER_SECOND
