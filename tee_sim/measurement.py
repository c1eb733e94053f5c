"""The measurement of the TEE's software: one hash over its source files and its interpreter.

Security: it is the software's word about itself, taken before the first command is served. A real
root of trust measures from outside, before it runs. Python may run a file's compiled cache.
"""

import hashlib
import platform
from pathlib import Path

# The guard's model has 20 MB: read in pieces, since fresh memory for all of it costs more than its
# hash does, at every start.
_BUFFER_BYTES = 1 << 17


def measure(package: Path = Path(__file__).parent) -> bytes:
    """Return the SHA-256 over the line "interpreter version" and, sorted, lines "path SHA-256".

    Args:
        package: folder of `tee_sim`; every file outside of `__pycache__` counts, those of the host
            side too.
    """
    files = (path for path in package.rglob("*") if path.is_file())
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    hashes = [
        f"{path.relative_to(package).as_posix()} {_digest(path, buffer)}\n"
        for path in files
        if path.parent.name != "__pycache__"
    ]
    interpreter = f"{platform.python_implementation()} {platform.python_version()}\n"
    return hashlib.sha256("".join([interpreter, *sorted(hashes)]).encode()).digest()


def _digest(path: Path, buffer: memoryview) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
