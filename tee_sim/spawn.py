"""Starts a TEE process and opens a session with its trusted application."""

import contextlib
import importlib.util
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tee_sim.channel import Channel
from tee_sim.errors import Origin, ResultCode, TeeDeadError, TeeError
from tee_sim.ledger import CostLedger
from tee_sim.protocol import NO_VALUES, TA_GUARD, TA_KV, Kind, ParamType, Values, param_types

# -I: no environment variables, no user site, no working directory on the path. -S: no site
# packages and no .pth files, which could run code of any installed package inside the TEE.
# The few directories it does need come as arguments and go behind the standard library.
# What is started is this text alone: a test that wants fault points puts a text of its own here.
_BOOTSTRAP = (
    "import sys; sys.path.extend(sys.argv[7:]); from tee_sim.daemon import main; "
    "main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), "
    "int(sys.argv[6]))"
)
_PACKAGES = {
    "core": ("cryptography", "_cffi_backend", "cbor2"),
    "guard": ("numpy", "onnxruntime", "tokenizers", "cryptography", "_cffi_backend"),
}


def connect(
    role: str,
    debug_root_key: bytes | None,
    fuses: Path | None = None,
    ledger: CostLedger | None = None,
    poll_us: int = 0,
) -> tuple[Channel, int]:
    """Start a process of `role`, initialise it and open a session with its first application.

    Security: without `debug_root_key` the process draws its own root key, or reads it from `fuses`.

    Args:
        role: "core" or "guard".
        debug_root_key: 32 bytes for a test, or None.
        fuses: file of the root key, or None.
        ledger: where the channel counts; None: one of its own.
        poll_us: how long the process awaits a call without sleeping, after each.

    Returns:
        The channel, and the session number for INVOKE requests.

    Raises:
        TeeError: if the process does not start; the text holds its last line.
        ValueError: on an unknown role or a wrong debug key.
    """
    if role not in ("core", "guard"):
        raise ValueError(f"unknown TEE role {role!r}: expected 'core' or 'guard'")
    request = _initialisation(role, debug_root_key, fuses)
    return _greet(Channel(*spawn(role, fuses, poll_us), ledger), role, request)


def connect_both(
    debug_root_key: bytes | None,
    fuses: Path | None = None,
    ledger: CostLedger | None = None,
    poll_us: int = 0,
) -> tuple[tuple[Channel, int], tuple[Channel, int]]:
    """Start a core and a guard that gets its storage key from it; as `connect`, of each.

    Security: the key crosses by a pipe from the one to the other. Its ends are closed here before
    the core has a key; no command moves it later, so a guard that ended needs both started anew.

    Args:
        debug_root_key, fuses, ledger, poll_us: of the core, as for `connect`.
    """
    request = _initialisation("core", debug_root_key, fuses)
    with contextlib.ExitStack() as undo:
        read_end, write_end = os.pipe()
        try:
            core = Channel(*spawn("core", fuses, poll_us, write_end), ledger)
            undo.callback(_give_up, core)
            guard = Channel(*spawn("guard", None, poll_us, read_end))
            undo.callback(_give_up, guard)
        finally:
            os.close(read_end)
            os.close(write_end)
        both = _greet(core, "core", request), _greet(guard, "guard", (NO_VALUES, 0))
        undo.pop_all()
        return both


def _initialisation(
    role: str, debug_root_key: bytes | None, fuses: Path | None
) -> tuple[Values, int]:
    """Return values and types of the first request; raise ValueError as `connect` does."""
    if fuses is not None and role != "core":
        raise ValueError(f"role {role!r} has no fuses: only 'core' takes them")
    if debug_root_key is not None:
        if len(debug_root_key) != 32 or role != "core":
            raise ValueError("debug_root_key must be 32 bytes, and only 'core' takes one")
        if fuses is not None:
            raise ValueError("debug_root_key and fuses exclude each other")
        values = (*struct.unpack("<4Q", debug_root_key), 0, 0, 0, 0)
        return values, param_types(ParamType.VALUE_INPUT, ParamType.VALUE_INPUT)
    return NO_VALUES, 0


def _greet(channel: Channel, role: str, request: tuple[Values, int]) -> tuple[Channel, int]:
    """Initialise a process that was started and open a session; end it if that fails."""
    values, types = request
    try:
        channel.call(Kind.INITIALIZE, "initialise", types=types, values=values)
        session = channel.open_session(TA_KV if role == "core" else TA_GUARD)
    except TeeDeadError:
        reason = channel.startup_failure() or "no message"
        channel.close()
        raise TeeError(
            ResultCode.COMMUNICATION, Origin.API, f"the TEE did not start: {reason}"
        ) from None
    except BaseException:
        _give_up(channel)
        raise
    channel.stop_listening()
    return channel, session


def _give_up(channel: Channel) -> None:
    channel.stop_listening()
    channel.close()


def spawn(
    role: str, fuses: Path | None = None, poll_us: int = 0, key_pipe: int = -1
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a TEE process of `role` and return it with the host's end of its socket.

    Security: spawned, never forked, so that it inherits no memory, no environment and no open
    file of the host but its socket and `key_pipe`; its own session, so that a terminal's Ctrl-C
    reaches only the host.

    Raises:
        TeeError: if the interpreter cannot be started.
    """
    paths = _search_path(role)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fuse_file = "" if fuses is None else str(fuses.absolute())
        arguments = [role, str(theirs.fileno()), str(os.getpid()), fuse_file]
        arguments += [str(poll_us), str(key_pipe)]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, *arguments, *paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            close_fds=True,
            pass_fds=(theirs.fileno(), *([key_pipe] if key_pipe >= 0 else [])),
            env={},
            cwd="/",
            umask=0o077,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise TeeError(
            ResultCode.GENERIC, Origin.API, f"cannot start the TEE process: {error.strerror}"
        ) from error
    finally:
        theirs.close()
    return process, ours


def _search_path(role: str) -> list[str]:
    """Directories of this package and of what the role imports beyond the standard library."""
    paths = [str(Path(__file__).resolve().parent.parent)]
    for name in _PACKAGES[role]:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise TeeError(ResultCode.GENERIC, Origin.API, f"package {name} is not installed")
        depth = 1 if found.submodule_search_locations is None else 2
        paths.append(str(Path(found.origin).resolve().parents[depth - 1]))
    return list(dict.fromkeys(paths))
