"""What the scripts of this folder share: their exit codes, their errors, their command line."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ptmo_secure.cli import output
from ptmo_secure.errors import InputError, PtmoError

MODEL_HELP = "a registry name or a GGUF file"
PEER_PYTHON_HELP = (
    "a Python that has llama_cpp and numpy "
    "[default: PTMO_PEERS_PYTHON, else that of make bench-peers]"
)


class ArgumentParser(argparse.ArgumentParser):
    """Tells a wrong command line in one line, as every other wrong input."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(message)


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command as the user would type it again."""
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *arguments])


def thread_count(threads: int) -> str:
    """Say `1 thread` or `2 threads`."""
    return f"{threads} thread{'s' * (threads > 1)}"


def run(main: Callable[[list[str]], int]) -> None:
    """Run a script and exit: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        code = output.error(str(error), 2)
    except PtmoError as error:
        code = output.error(str(error), 1)
    except KeyboardInterrupt:
        code = output.error("interrupted", 130)
    sys.exit(code)
