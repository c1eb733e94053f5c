"""Two engines on one TEE process: keys of their own, one end, one death."""

import os
import signal
import time

import pytest

from ptmo_secure import cli
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError, SecurityError
from tests.tiny_models import make_tiny_model

TEXT = "hello there"
IDS = [5, 9, 200, 31, 7]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [make_tiny_model(folder, seed=seed, context_length=256).path for seed in (1, 2)]


def load(path, first=None, **fields):
    tee = None if first is None else first.sessions.host
    return Engine.load(path, tee=tee, **{"threads": 1, "shield": "permute+seal", **fields})


def said(engine):
    return "".join(engine.generate(TEXT, 6))


def pid(engine):
    return engine.stats()["tee_pid"]


def gone(number):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_each_says_what_it_says_alone_and_the_last_one_ends_the_tee(paths):
    alone = []
    for path in paths:
        with load(path) as engine:
            alone.append(said(engine))
    assert alone[0] != alone[1]
    first = load(paths[0])
    with load(paths[1], first) as second:
        assert pid(first) == pid(second)
        assert [said(first), said(second), said(first)] == [alone[0], alone[1], alone[0]]
        assert first.sessions.tee.client.stats().seal_keys == 2
        first.close()
        assert said(second) == alone[1]
        number = pid(second)
        os.kill(number, 0)
    assert gone(number)


def test_when_it_dies_both_go_on_with_one_new_tee(paths):
    with load(paths[0]) as first, load(paths[1], first) as second:
        before, number = [said(first), said(second)], pid(first)
        os.kill(number, signal.SIGKILL)
        while first.sessions.tee.alive() or second.sessions.tee.alive():
            time.sleep(0.01)
        assert [said(second), said(first)] == before[::-1]
        assert pid(first) == pid(second) != number


def test_a_model_that_leaves_gives_its_part_back(paths):
    with load(paths[0], restore="tee") as first:
        for _ in range(34):  # two regions each, of 64
            load(paths[1], first, restore="tee", cache_tokens=32, context_tokens=32).close()
        assert said(first)


def test_a_session_of_one_is_refused_by_the_other(paths, tmp_path):
    device = tmp_path / "device"
    given = {"tee_state": device, "shield": "seal"}
    with load(paths[0], **given) as first, load(paths[1], first, **given) as second:
        kept = [tmp_path / "first", tmp_path / "second"]
        for engine, path in zip((first, second), kept, strict=True):
            session = engine.start_session()
            session.feed(IDS)
            session.save(path)
            assert engine.resume(path).tokens == IDS
        with pytest.raises(InputError, match="another model"):
            second.resume(kept[0])
        kept[0].replace(kept[1])
        with pytest.raises(SecurityError, match="WRONG_OBJECT"):
            second.resume(kept[1])


def test_engines_of_two_devices_share_no_tee(paths, tmp_path):
    with load(paths[0], tee_state=tmp_path / "one") as first:
        with pytest.raises(InputError, match="one device"):
            load(paths[1], first, tee_state=tmp_path / "two")
        with pytest.raises(InputError, match="one device"):
            load(paths[1], first)


def test_a_sealed_model_is_opened_by_the_device_that_runs(paths, tmp_path):
    sealed, device = str(tmp_path / "second.gguf.sealed"), tmp_path / "device"
    command = ["model", "seal", str(paths[1]), "-o", sealed, "--state", str(device)]
    assert cli.main(command) == 0
    given = {"tee_state": device, "shield": "seal"}
    with load(paths[0], **given) as first, load(sealed, first, **given) as second:
        with load(paths[1]) as plain:
            assert said(second) == said(plain)
        assert pid(first) == pid(second)
