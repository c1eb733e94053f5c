"""`ptmo bench --batch`: what it measures, and the shape of its result."""

import json

import pytest

from ptmo_secure import bench_batch, cli
from ptmo_secure.bench_batch import BatchDecoding, run_batch_bench
from ptmo_secure.config import BenchConfig
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from tests.tiny_models import make_tiny_model

KEYS = [
    *("shield", "restore", "kv_dtype", "threads", "prompt_tokens", "decode_tokens"),
    *("batch", "total_tps", "speedup"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def test_every_request_of_a_turn_decodes_after_its_prompt_and_is_cut_back(model):
    with Engine.load(model, shield="none", threads=1) as engine:
        side = BatchDecoding(engine, 3, 20)
        lengths = []
        truncate = type(side._sessions[0]).truncate
        for session in side._sessions:
            session.truncate = lambda n, s=session: (lengths.append(len(s.tokens)), truncate(s, n))
        assert side.tokens_per_second(5) > 0
        assert side.tokens_per_second(5) > 0
        assert lengths == [25] * 6
        assert [len(session.tokens) for session in side._sessions] == [20] * 3


def test_batch_sizes_take_turns_and_are_compared_round_by_round(model, monkeypatch):
    order = []
    rates = iter([10.0, 15.0, 20.0, 50.0, 30.0, 45.0])

    def measured(side, decode_tokens):
        order.append(len(side._sessions))
        return next(rates)

    monkeypatch.setattr(BatchDecoding, "tokens_per_second", measured)
    config = BenchConfig(
        model=str(model), shields=("none",), contexts=(16,), threads=(1,), batches=(1, 2)
    )
    single, double = run_batch_bench(config, lambda *_: None)
    assert order == [1, 2] * 3
    assert (single.total_tps, single.speedup) == (20.0, 1.0)
    assert (double.total_tps, double.speedup) == (45.0, 1.5)
    assert [row[-1] for row in bench_batch.iterate_rows([single, double])] == ["1.00", "1.50"]


def test_the_command_prints_its_results_as_json(model, capsys):
    arguments = ["bench", "--model", str(model), "--shields", "none,seal", "--contexts", "16"]
    more = ["--threads", "1", "--batch", "2,3", "--rounds", "1", "--decode-tokens", "3", "--json"]
    assert cli.main([*arguments, *more]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["batches"] == [2, 3]
    assert [(row["shield"], row["batch"]) for row in printed["results"]] == [
        ("none", 2),
        ("none", 3),
        ("seal", 2),
        ("seal", 3),
    ]
    assert all(list(row) == KEYS and row["total_tps"] > 0 for row in printed["results"])
    assert all(row["speedup"] is None for row in printed["results"])


def test_a_batch_of_none_is_refused():
    with pytest.raises(InputError, match="batch is 0"):
        BenchConfig(batches=(0,))


@pytest.mark.parametrize(
    ("shield", "most"), [("none", (1 << 22) // (100 + 28 + 32)), ("seal", 64), ("permute+seal", 64)]
)
def test_a_batch_too_large_is_refused_with_the_most_there_may_be(shield, most):
    config = BenchConfig(shields=(shield,), contexts=(100,), decode_tokens=28, batches=(1, most))
    with pytest.raises(InputError) as error:
        run_batch_bench(config, lambda *_: None)
    assert str(error.value) == (
        f"batch 1,{most} is too large: {most + 1} requests of 128 tokens at once, "
        f"and at most {most} fit under shield {shield!r}"
    )


def test_as_many_sealed_requests_as_there_are_key_slots_are_measured(model):
    config = BenchConfig(
        model=str(model),
        shields=("seal",),
        contexts=(2,),
        threads=(1,),
        decode_tokens=2,
        rounds=1,
        batches=(64,),
    )
    assert run_batch_bench(config, lambda *_: None)[0].batch == 64
