"""The pipe by which a core gives a guard its storage key: written once, read once, then closed."""

import contextlib

from tee_sim.memory import wipe

STORAGE_KEY_BYTES = 32


def give(fd: int, key: bytearray) -> None:
    """Write a key, overwrite it, and close the pipe. A reader that is gone needs none.

    Security: whoever has the other end has this key, and no other follows from it.
    """
    with open(fd, "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
        try:
            pipe.write(key)
        finally:
            wipe(key)


def receive(fd: int) -> bytearray:
    """Return the key, and close the pipe.

    Raises:
        ValueError: the core ended, or closed the pipe, before it wrote a whole one.
    """
    key = bytearray(STORAGE_KEY_BYTES)
    with open(fd, "rb", buffering=0) as pipe:
        if pipe.readinto(key) != STORAGE_KEY_BYTES:
            raise ValueError("the core gave no storage key")
    return key
