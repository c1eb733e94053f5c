"""The named fault points, how a test arms one, and what a call then comes to."""

import contextlib
import re
from pathlib import Path

from faulty_tee import ARM

from ptmo_secure.errors import PtmoError, SecurityError, TeeDiedError
from ptmo_secure.sealed.store import SealedStore
from tee_sim import spawn
from tee_sim.client import ResultCode, TeeDeadError, TeeError

TEE_POINTS = ("after_recv", "before_reply", "kill", "panic", "oom", "clock_back")
STORE_POINTS = ("after_blob_write", "before_counter_write", "short_read", "bit_flip")
POINTS = TEE_POINTS + STORE_POINTS
FATAL = ("after_recv", "before_reply", "kill", "panic")

_PROGRAM = (
    "import sys; sys.path.extend(sys.argv[7:]); sys.path.append({folder!r}); "
    "from faulty_tee import main; "
    "main(sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[6]), "
    "{armed!r}, {root_file!r})"
)


def program(armed="", root_file=""):
    """What a TEE process with fault points runs, in the place of `spawn._BOOTSTRAP`."""
    folder = str(Path(__file__).resolve().parent)
    return _PROGRAM.format(folder=folder, armed=armed, root_file=str(root_file))


@contextlib.contextmanager
def instrumented(monkeypatch, armed=""):
    """Every TEE that is launched in this block has fault points; `armed` is set from the start."""
    with monkeypatch.context() as patched:
        patched.setattr(spawn, "_BOOTSTRAP", program(armed))
        yield


def arming(point, kind, command=0, at=1, skip=0):
    """The packet that arms a fault for a request of this kind and command (-1: of any).

    Args:
        at: line of the command, for faults in its middle.
        skip: such requests before it that go well.
    """
    return ARM + f"{point} {int(kind)} {int(command)} {at} {skip}".encode()


def arm(client, *fault, **more):
    """Arm a fault in an instrumented TEE; arguments as `arming`'s."""
    client._channel._socket.send(arming(*fault, **more))


class Interrupted(BaseException):
    """Something no code of the store expects, as Ctrl-C is."""


class FaultyStore(SealedStore):
    """A supplicant with fault points at its file steps, and one before it starts the counter."""

    point = ""

    changes = 0  # that it was told are done
    before_start = None  # called with the store once its TEE runs and was not asked anything yet

    def _start(self):
        if self.before_start is not None:
            self.before_start()
        super()._start()

    def put(self, name, data):
        super().put(name, data)
        self.changes += 1

    def remove(self, name):
        super().remove(name)
        self.changes += 1

    def take(self, point):
        """Whether the fault is armed; it fires once."""
        if self.point != point:
            return False
        self.point = ""
        return True

    def _write(self, path, data):
        if path == self._counter_path and self.take("before_counter_write"):
            raise Interrupted
        super()._write(path, data)
        if path != self._counter_path and self.take("after_blob_write"):
            raise Interrupted

    def _read(self, path, n_bytes=1 << 24):
        data = super()._read(path, n_bytes)
        if data and self.take("short_read"):
            return data[:-1]
        if data and self.take("bit_flip"):
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


def outcome(call, *args):
    """Make a call; return (SUCCESS, INTERRUPTED or the code it was refused with, its result)."""
    try:
        return "SUCCESS", call(*args)
    except (TeeDeadError, TeeDiedError):
        return "TARGET_DEAD", None
    except Interrupted:
        return "INTERRUPTED", None
    except TeeError as error:
        return ResultCode(error.code).name, None
    except PtmoError as error:
        code = re.search(r"\(([A-Z_]+)[,)]", str(error))
        if code is None:
            raise
        assert isinstance(error, SecurityError) == (code[1] != "OUT_OF_MEMORY")
        return code[1], None
