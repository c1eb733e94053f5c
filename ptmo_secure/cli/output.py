"""What goes to which stream: results to stdout, everything else to stderr.

Security: text of the model or of a file name passes through `terminal_safe` or `one_line` before it
reaches a terminal, so that it cannot move the cursor or forge a line.
"""

import os
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_COLUMNS = 140  # width of tables that go to a file or a pipe
_command = "ptmo"


class StdoutError(OSError):
    """Stdout cannot be written, for another reason than a reader that left."""


class GuardedStdout:
    """Passes everything on to a stream; a failed write becomes a `StdoutError`.

    So that a full disk behind stdout is told apart from one behind a file the command writes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream."""
        with self._named():
            return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._named():
            self._stream.flush()

    @staticmethod
    @contextmanager
    def _named() -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as failure:
            raise StdoutError(failure.errno, failure.strerror) from None


def remember_command(arguments: Sequence[str]) -> None:
    """Keep the command line for the result files."""
    global _command
    _command = shlex.join(["ptmo", *arguments])


def command() -> str:
    """The command line as the user would type it again."""
    return _command


def one_line(text: str) -> str:
    """`text` on one line, without control or invisible formatting characters."""
    flat = " ".join(text.split())
    return "".join("?" if unicodedata.category(char)[0] == "C" else char for char in flat)


def terminal_safe(text: str) -> str:
    """`text` without control characters other than newline and tab."""
    return "".join(
        char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")
    )


def error(message: str, code: int) -> int:
    """Print one line of error and return `code`."""
    try:
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # stderr is closed: the exit code still tells
        pass
    return code


def note(message: str) -> None:
    """Print one line to stderr."""
    print(one_line(message), file=sys.stderr, flush=True)


def fill_closed_streams() -> bool:
    """Put the null device where stdin or stderr was closed (`2>&-`).

    So that no file or socket opened later gets their descriptors, and prints for stderr do not
    end up on stdout.

    Returns:
        Whether stdout is open.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    return sys.stdout is not None


def stdout_failed(failure: StdoutError) -> int:
    """Say that stdout cannot be written; what waits to be written is dropped."""
    reader_left()
    return error(f"cannot write to stdout: {failure.strerror}", 1)


def reader_left() -> int:
    """End quietly when whoever read stdout has gone (`ptmo ask ... | head`)."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    return 1


def write(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(terminal_safe(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


@contextmanager
def json_only(wanted: bool) -> Iterator[Callable[[object], None]]:
    """Keep stdout for one JSON object: other prints, native ones too, go to stderr meanwhile.

    Yields:
        A function that prints the object; with `wanted` false it does nothing.
    """
    if not wanted:
        yield _ignore
        return
    from ptmo_secure.results import to_json

    sys.stdout.flush()
    real = sys.stdout
    results: list[object] = []
    saved = _divert(real)
    try:
        with redirect_stdout(sys.stderr):
            yield results.append
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
    for value in results:
        real.write(to_json(value) + "\n")
    real.flush()


def _divert(stream: object) -> int | None:
    """Point descriptor 1 at stderr if `stream` writes to it; return a copy of the old one."""
    try:
        if stream.fileno() != 1:  # type: ignore[attr-defined]  # no fileno: not a descriptor
            return None
        saved = os.dup(1)
        os.dup2(2, 1)
        return saved
    except (AttributeError, OSError, ValueError):
        return None


def _ignore(value: object) -> None:
    """Print nothing."""


def console(*, stderr: bool = False) -> "Console":
    """A Rich console on stdout, or on stderr."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else _PIPE_COLUMNS)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr; silent where stderr is no terminal.

    Yields:
        A function (done, total, label); a total of 0 means unknown.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int, label: str) -> None:
            text = f"{title}: {one_line(label)}".replace("[", r"\[")
            bar.update(task, completed=done, total=total or None, description=text)

        yield report
