"""`ptmo model unseal` that is ended in the middle leaves nothing in the clear."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptmo_secure.sealed import files
from ptmo_secure.sealed.bundle import SETTINGS_NAME, WEIGHTS_NAME, seal_path, unseal_path
from ptmo_secure.sealed.chunks import SealedKind, seal
from ptmo_secure.sealed.store import SealedStore

CHECKOUT = Path(__file__).resolve().parents[2]
PLAIN = bytes(range(256)) * 8192  # two chunks

# What is being written stops after its first chunk, and says so.
UNSEAL = """
import os, sys, time
from ptmo_secure import cli
from ptmo_secure.sealed import bundle, files

if sys.argv[1] == "named":
    files._nameless = lambda folder: None

def pieces(path, chunks):
    chunks = iter(chunks)
    with files.creating(path) as out:
        out.write(next(chunks))
        out.flush()
        os.write(3, b"half")
        time.sleep(60)

bundle._write = pieces
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def device(base):
    """A folder with a device's state, a sealed model and a sealed adapter."""
    adapter = base / "adapter"
    adapter.mkdir()
    (adapter / SETTINGS_NAME).write_bytes(PLAIN[:300])
    (adapter / WEIGHTS_NAME).write_bytes(PLAIN)
    with SealedStore.open(base / "state") as store:
        seal(store, SealedKind.MODEL, [io.BytesIO(PLAIN)], len(PLAIN), base / "model.sealed")
        seal_path(store, adapter, base / "adapter.sealed")
    for path in adapter.iterdir():
        path.unlink()
    adapter.rmdir()
    return base


def ended(device, kind, way, number):
    """Unseal, end it by a signal in the middle; return its exit code and stderr."""
    told, tell = os.pipe()

    def prepare():
        os.dup2(tell, 3)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored

    with subprocess.Popen(
        [
            *(sys.executable, "-c", UNSEAL, way, "model", "unseal", str(device / f"{kind}.sealed")),
            *("-o", str(device / "back"), "--state", str(device / "state")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=prepare,
        pass_fds=(3,),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        text=True,
    ) as process:
        os.close(tell)
        assert os.read(told, 4) == b"half"
        os.close(told)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def in_the_clear(device):
    return [
        path for path in device.rglob("*") if path.is_file() and PLAIN[:256] in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "kind,way,number",
    [
        ("model", "nameless", signal.SIGTERM),
        ("adapter", "nameless", signal.SIGHUP),
        ("model", "named", signal.SIGHUP),
        ("adapter", "named", signal.SIGTERM),
    ],
)
def test_a_signal_that_ends_unseal_undoes_it(device, kind, way, number):
    code, errors = ended(device, kind, way, number)
    assert (code, errors) == (128 + number, f"error: ended by {number.name}\n")
    assert sorted(os.listdir(device)) == ["adapter.sealed", "model.sealed", "state"]
    assert in_the_clear(device) == []


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_not_even_sigkill_leaves_plaintext(device, kind):
    if (fd := files._nameless(device)) is None:
        pytest.skip("the file system has no files without a name")
    os.close(fd)
    assert ended(device, kind, "nameless", signal.SIGKILL)[0] == -signal.SIGKILL
    assert in_the_clear(device) == []
    (device / "plain").write_bytes(PLAIN)  # it would be found
    assert in_the_clear(device) == [device / "plain"]


@pytest.mark.parametrize("way", ["nameless", "named"])
def test_what_is_unsealed_is_there_whole_for_its_owner_alone(device, way, monkeypatch):
    if way == "named":
        monkeypatch.setattr(files, "_nameless", lambda folder: None)
    with SealedStore.open(device / "state") as store:
        assert unseal_path(store, device / "model.sealed", device / "m") == SealedKind.MODEL
        assert unseal_path(store, device / "adapter.sealed", device / "a") == SealedKind.ADAPTER
    assert (device / "m").read_bytes() == PLAIN == (device / "a" / WEIGHTS_NAME).read_bytes()
    assert (device / "a" / SETTINGS_NAME).read_bytes() == PLAIN[:300]
    assert {path.name for path in (device / "a").iterdir()} == {SETTINGS_NAME, WEIGHTS_NAME}
    for path, mode in (
        (device / "m", 0o600),
        (device / "a", 0o700),
        (device / "a" / WEIGHTS_NAME, 0o600),
    ):
        assert path.stat().st_mode & 0o777 == mode


def test_a_file_without_a_name_takes_no_name_that_is_taken(base):
    path = base / "file"
    with pytest.raises(FileExistsError), files.creating(path) as file:
        file.write(b"new")
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's" and os.listdir(base) == ["file"]
    with pytest.raises(FileNotFoundError), files.creating(base / "none" / "file"):
        raise AssertionError("opened")


def test_a_file_system_without_files_without_a_name_is_written_as_others(base, monkeypatch):
    real = os.open

    def old(path, flags, *more, **given):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *more, **given)

    monkeypatch.setattr(files.os, "open", old)
    with files.creating(base / "file") as file:
        file.write(b"data")
        assert [path.suffix for path in base.iterdir()] == [".part"]
    assert (base / "file").read_bytes() == b"data" and os.listdir(base) == ["file"]
