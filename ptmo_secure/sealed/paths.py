"""Where a device keeps its sealed state when nobody says where."""

import os
from pathlib import Path


def default_state_folder() -> Path:
    """Return `$PTMO_STATE`, else `$XDG_STATE_HOME/ptmo`, else `~/.local/state/ptmo`."""
    if own := os.environ.get("PTMO_STATE"):
        return Path(own)
    if root := os.environ.get("XDG_STATE_HOME"):
        return Path(root) / "ptmo"
    return Path.home() / ".local" / "state" / "ptmo"
