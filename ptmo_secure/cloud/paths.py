"""Where the cloud path keeps its files when nobody says where: in the device's state folder."""

from pathlib import Path

from ptmo_secure.sealed.paths import default_state_folder


def egress_folder(state: Path | None = None) -> Path:
    """Return the folder of the egress log."""
    return (state or default_state_folder()) / "egress"


def caps_path(state: Path | None = None) -> Path:
    """Return the file of the caps."""
    return (state or default_state_folder()) / "cloud-caps.json"
