"""`ptmo bench --device cuda`: it measures the device's engine, and the columns are its own."""

import json

import pytest

from ptmo_secure import bench, cli
from ptmo_secure.config import RESTORES, SHIELDS, BenchConfig
from ptmo_secure.engine.engine import Engine
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path)


@pytest.fixture
def decoders(monkeypatch):
    """Modules of the decoders that were opened."""
    opened = []
    load = Engine.load

    def loaded(*arguments, **fields):
        engine = load(*arguments, **fields)
        opened.append(type(engine.start_session()._host.decoder).__module__)
        return engine

    monkeypatch.setattr(Engine, "load", loaded)
    monkeypatch.setattr(bench, "_COPY_BYTES", 1 << 20)
    return opened


def test_every_shield_is_measured_on_the_device(model, decoders):
    config = BenchConfig(
        model=model, shields=SHIELDS, contexts=(20,), decode_tokens=3, rounds=1, device="cuda"
    )
    rows = bench.run_bench(config)
    assert decoders == ["ptmo_secure._cuda"] * len(rows)
    assert [(row.shield, row.restore) for row in rows] == [
        *(("none", None), *(("permute", restore) for restore in RESTORES)),
        *(("seal", None), *(("permute+seal", restore) for restore in RESTORES)),
    ]
    for row in rows:
        assert row.prefill_tps > 0 and row.decode_tps > 0 and row.read_bandwidth_gbps > 0
        assert (row.tee_crossings_per_token > 0) == (row.restore == "tee")
        assert (row.sim_tee_ms_per_token > 0) == (row.restore == "tee")


def test_the_command_writes_the_device_into_its_result(model, decoders, capsys):
    command = ["bench", "--model", model, "--shields", "seal", "--contexts", "8", "--json"]
    sizes = ["--decode-tokens", "2", "--rounds", "1", "--device", "cuda"]
    for batch in ([], ["--batch", "2"]):
        assert cli.main([*command, *sizes, *batch]) == 0
        value = json.loads(capsys.readouterr().out)
        assert value["config"]["device"] == "cuda"
        assert len(value["results"]) == 1
    assert decoders == ["ptmo_secure._cuda"] * 2
