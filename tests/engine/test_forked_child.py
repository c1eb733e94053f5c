"""A forked child of a process with an engine: every call is refused, whoever held which lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]

# Another thread holds every lock while the process forks: in the child they stay held for good.
LOCKS_HELD = """
import asyncio, os, signal, sys, threading
sys.path.insert(0, sys.argv[2])
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import EngineError
from tee_sim.client import TeeError

engine = Engine.load(sys.argv[1], shield="permute+seal", threads=1, cache_tokens=2048)
tee = engine._tee.client
rows = engine.model.n_kv_heads * engine.model.head_dim
session = engine.start_session()
session.feed([1, 2, 3])
pieces = engine.generate("hello there", max_tokens=40)
next(pieces)
beside = engine.open_session()
scheduler = Scheduler(engine)
request = scheduler.submit("hello there", 60)
next(iter(request))

async def read():
    async for _ in request:
        pass

calls = {
    "submit": lambda: scheduler.submit("hello"),
    "stats": scheduler.stats,
    "result": request.result,
    "wait": request.wait,
    "pieces": lambda: list(request),
    "async pieces": lambda: asyncio.run(read()),
    "generate": lambda: list(engine.generate("hello")),
    "go on": lambda: next(pieces),
    "forward": lambda: engine.forward([1]),
    "open": engine.open_session,
    "reset": engine.reset,
    "dump": engine.dump_device_memory,
    "adapters": lambda: engine.adapters,
    "feed": lambda: beside.feed([1]),
    "truncate": lambda: beside.truncate(0),
    "fork": beside.fork,
    "save": lambda: beside.save(sys.argv[3]),
    "use": lambda: beside.use_adapters([]),
    "tee status": tee.status,
    "tee weights": lambda: tee.permute_weights(engine._tee._model, 0, "k", bytes(rows), 1),
    "tee scan": lambda: tee.scan("a"),
    "tee memory": lambda: tee.register_memory(64),
}
held, done = threading.Event(), threading.Event()

def hold():
    with engine.sessions.lock, scheduler._changed, request._changed, tee._channel.lock:
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    for name, call in calls.items():
        try:
            print(name, "ran", call(), flush=True)
        except (EngineError, TeeError) as error:
            print(f"{name}: {error}", flush=True)
    for close in (request.cancel, scheduler.close, beside.close, engine.close, tee.close):
        close()
    print("closed", flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
done.set()
print("status", status)
print("parent", beside.feed([4]).shape[0], bool(request.result(60)))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def test_a_forked_child_is_refused_in_one_line_though_every_lock_was_held(model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOCKS_HELD, str(model), str(ROOT), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    *answers, closed, status, parent = done.stdout.splitlines()
    assert (closed, status, parent) == ("closed", "status 0", "parent 1 True"), done
    assert len(answers) == 22
    for answer in answers:
        refusal = "a forked process" if answer.startswith("tee ") else "load one of your own"
        assert refusal in answer
    assert done.stderr == ""
    assert not (tmp_path / "saved").exists()
