"""How a sealed file is told from others: by its name, or by its first bytes.

Security: a name that ends with ".sealed" is enough, so that nothing in the clear passes in the
place of a sealed file.
"""

import contextlib
from pathlib import Path

SUFFIX = ".sealed"
MAGIC = b"PTMOFILE"


def is_sealed(path: Path) -> bool:
    """Whether a file is, or by its name should be, a sealed one."""
    with contextlib.suppress(OSError, ValueError):
        return not path.is_dir() if path.suffix == SUFFIX else starts_sealed(path)
    return False


def starts_sealed(path: Path) -> bool:
    """Whether a file begins as a sealed one does; a pipe is not waited for.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
