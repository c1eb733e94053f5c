"""Threads, forks, closing, idle TEE death: what must not crash, revive or leave rows behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import EngineError, InputError
from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 250, 400)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.mark.parametrize("shield", ["none", "seal"])
def test_reset_waits_for_the_forward_pass_of_another_thread(model, shield):
    with Engine.load(model, shield=shield, prefill_chunk_tokens=8) as engine:
        for _ in range(20):
            session = engine.start_session()
            outcome = []

            def feed(session=session, outcome=outcome):
                try:
                    outcome.append(session.feed(IDS).shape)
                except EngineError as error:
                    outcome.append(str(error))

            thread = threading.Thread(target=feed)
            thread.start()
            engine.reset()
            thread.join(60)
            assert outcome in ([(1, engine.model.vocab_size)], ["the session is closed"])
            assert session.closed
            assert engine.dump_device_memory().pages == b""


def test_two_threads_on_one_session_take_turns(model):
    with Engine.load(model, shield="seal", threads=2) as engine:
        session = engine.start_session()
        threads = [threading.Thread(target=session.feed, args=(IDS[:50],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert session.tokens == IDS[:50] * 4


@pytest.mark.parametrize("shield", ["none", "seal", "permute"])
def test_a_closed_engine_stays_closed(model, shield):
    engine = Engine.load(model, shield=shield, threads=1)
    pieces = engine.generate("hello", max_tokens=5)
    running = engine.generate("hello there", max_tokens=50)
    next(running)
    engine.close()
    engine.close()
    for use in (lambda: list(pieces), lambda: list(running), lambda: engine.forward([1])):
        with pytest.raises(EngineError):
            use()
    assert engine.dump_device_memory().pages == b""


FORK = """
import os, sys
sys.path.insert(0, sys.argv[2])
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import EngineError
engine = Engine.load(sys.argv[1], shield="seal", threads=1)
session = engine.start_session()
session.feed([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        session.feed([4])
    except EngineError:
        print("child: EngineError")
    sys.exit(0)
_, status = os.waitpid(child, 0)
print("status:", status)
print("parent:", session.feed([4]).shape[0])
"""


def test_a_forked_child_of_a_sealed_engine_refuses_and_exits_cleanly(model):
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(model), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:3] == ["child: EngineError", "status: 0", "parent: 1"], done


@pytest.mark.parametrize("shield", ["permute", "seal"])
def test_rows_are_wiped_when_the_tee_dies_while_nobody_generates(model, shield):
    with Engine.load(model, shield=shield, threads=1) as engine:
        pieces = engine.generate("hello there", max_tokens=50)
        next(pieces)
        assert engine.dump_device_memory().pages != b""
        os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while engine.dump_device_memory().pages and time.monotonic() < deadline:
            time.sleep(0.02)
        assert engine.dump_device_memory().pages == b""


def test_unrelated_queries_share_no_session(model):
    with Engine.load(model, shield="seal", threads=1) as engine:
        list(engine.generate("first question", max_tokens=3))
        first = engine.dump_device_memory()
        list(engine.generate("another question", max_tokens=3))
        second = engine.dump_device_memory()
    assert first.sessions() != second.sessions()
    assert int(first.headers()["epoch"][0]) != int(second.headers()["epoch"][0])


def test_a_debug_tee_is_not_started_twice(model):
    """Under one root key the second process would repeat the first one's keys and counters."""
    root = bytes(range(32))
    with Engine.load(model, shield="seal", threads=1, tee_debug_root_key=root) as engine:
        engine.forward([1, 2])
        os.kill(engine.stats()["tee_pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while engine._tee.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(EngineError, match="not started twice"):
            engine.forward([1, 2])


@pytest.mark.parametrize("ids", [None, [], [1.7], [True], ["1"], [-1], [2**40], [10**6], 5])
def test_wrong_token_ids_are_input_errors(model, ids):
    with Engine.load(model, shield="none", threads=1) as engine:
        with pytest.raises(InputError):
            engine.forward(ids)
        assert engine.forward([1]).shape[0] == 1


def test_unknown_kernel_level_is_named_alone(model):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[2])\n"
            "from ptmo_secure.engine.engine import Engine\n"
            "try:\n    Engine.load(sys.argv[1], shield='none')\n"
            "except ValueError as error:\n    print(error)",
            str(model),
            str(ROOT),
        ],
        env={**os.environ, "PTMO_KERNEL_LEVEL": "nonsense"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("PTMO_KERNEL_LEVEL=nonsense is not a level this CPU has"), done
