"""The command line. `main` turns every outcome into an exit code and at most one line of error.

Exit codes: 0 done, 1 the run failed, 2 bad usage or bad input, 130 interrupted; 143 and 129 ended
by SIGTERM and SIGHUP, which undo what was begun as Ctrl-C does.

Security: an unexpected exception is reported by its type alone, because its text may quote what the
user typed; PTMO_DEBUG=1 shows the traceback.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeGuard, cast

from ptmo_secure.cli import output
from ptmo_secure.errors import InputError, PtmoError

_INTERRUPTED = 130
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """The process was told to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows the program's name; the process's own by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    output.remember_command(given)
    if not output.fill_closed_streams():
        return output.error("stdout is closed", 1)
    try:
        from ptmo_secure.cli.app import app

        with _ending(), redirect_stdout(cast("TextIO", output.GuardedStdout(sys.stdout))):
            code = app(args=given or ["--help"], prog_name="ptmo", standalone_mode=False)
            sys.stdout.flush()
        if code == _INTERRUPTED:  # Typer's code for Ctrl-C
            return output.error("interrupted", _INTERRUPTED)
        return code if isinstance(code, int) else 0
    except BaseException as failure:
        if os.environ.get("PTMO_DEBUG") and not _is_usage_error(failure):
            traceback.print_exc()
        return _report(failure)


@contextmanager
def _ending() -> Iterator[None]:
    """Have signals that would end the process at once end the command by an exception."""
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> NoReturn:
    for other in _ENDING:  # the next one must not interrupt the clean-up
        signal.signal(other, signal.SIG_IGN)
    raise _Ended(number)


def _report(failure: BaseException) -> int:
    """Say on stderr, in one line, what went wrong; return the exit code."""
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if isinstance(failure, _Ended):
        return output.error(f"ended by {signal.Signals(failure.number).name}", 128 + failure.number)
    if isinstance(failure, KeyboardInterrupt) or type(failure).__name__ == "Abort":
        return output.error("interrupted", _INTERRUPTED)
    if isinstance(failure, BrokenPipeError) or getattr(failure, "errno", None) == errno.EPIPE:
        return output.reader_left()
    if isinstance(failure, output.StdoutError):
        return output.stdout_failed(failure)
    if isinstance(failure, InputError):
        return output.error(str(failure), 2)
    if isinstance(failure, PtmoError) or _is_tee_error(failure):
        return output.error(str(failure), 1)
    if _is_usage_error(failure):
        return output.error(
            f"{failure.format_message().rstrip('.')}; see {_help_command(failure)}", 2
        )
    if isinstance(failure, ImportError) and "_native" in str(failure):
        return output.error("the native module is not built: run pip install -e .", 1)
    if isinstance(failure, OSError) and failure.filename is not None:
        return output.error(f"{failure.filename}: {failure.strerror}", 1)
    if isinstance(failure, MemoryError):
        return output.error("out of memory", 1)
    return output.error(
        f"unexpected {type(failure).__name__}; PTMO_DEBUG=1 shows where it came from", 1
    )


def _is_usage_error(failure: BaseException) -> TypeGuard[Any]:
    """Whether Typer refused the command line (its own Click or the real one, by version)."""
    return hasattr(failure, "format_message")


def _help_command(failure: BaseException) -> str:
    context = getattr(failure, "ctx", None)
    return f"{context.command_path if context is not None else 'ptmo'} --help"


def _is_tee_error(failure: BaseException) -> bool:
    client = sys.modules.get("tee_sim.client")
    return client is not None and isinstance(failure, client.TeeError)
