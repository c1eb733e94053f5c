"""What tests of sealed storage share: where they keep devices, and what an object may be."""

import os
from pathlib import Path

from ptmo_secure.errors import InputError, SecurityError

REMOVED = "removed"


def memory_folder(base):
    """A folder in memory, where there is one: what is flushed is looked at here, not waited for."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else base


def value_of(store, name):
    """What is stored, None for nothing; REMOVED where a removal was interrupted."""
    try:
        return store.get(name)
    except InputError:
        return None
    except SecurityError as error:
        assert "removed while the counter names it" in str(error)
        return REMOVED
