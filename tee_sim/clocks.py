"""What time it is: since the machine started, which nobody sets back, and by the wall."""

import os
import time


def clock() -> float:
    """Return the seconds since the machine started; nobody sets them back, sleep counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_clock() -> float:
    """Return the seconds since 1970, as whoever sets the clock has them."""
    return time.time()


def _read_boot_id() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return os.urandom(16)


# 16 bytes that name this start of the machine; where nothing does, bytes that no other start has.
# Read now: a running TEE opens no file.
BOOT_ID = _read_boot_id()
