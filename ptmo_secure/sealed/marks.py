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
        if path.suffix == SUFFIX:
            return not path.is_dir()
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    return False
