"""Where a device keeps its state when nobody says where."""

import os
from pathlib import Path


def default_state_folder() -> Path:
    """Return $PTMO_STATE, else $XDG_STATE_HOME/ptmo, else ~/.local/state/ptmo; it need not exist.

    A relative $XDG_STATE_HOME is ignored, as the XDG Base Directory Specification (0.8) asks.
    """
    own = os.environ.get("PTMO_STATE")
    if own:
        return Path(own).expanduser()
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "ptmo"
