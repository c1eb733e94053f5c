"""The measurement of the TEE's software: one hash over its source files and its interpreter.

Security: it is the software's word about itself, taken before the first command is served. A real
root of trust measures from outside, before it runs. Python may run a file's compiled cache.
"""

import hashlib
import platform
from pathlib import Path


def measure(package: Path = Path(__file__).parent) -> bytes:
    """Return the SHA-256 over the line "interpreter version" and, sorted, lines "path SHA-256".

    Args:
        package: folder of `tee_sim`; every file outside of `__pycache__` counts, those of the host
            side too.
    """
    files = (path for path in package.rglob("*") if path.is_file())
    hashes = [
        f"{path.relative_to(package).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in files
        if path.parent.name != "__pycache__"
    ]
    interpreter = f"{platform.python_implementation()} {platform.python_version()}\n"
    return hashlib.sha256("".join([interpreter, *sorted(hashes)]).encode()).digest()
