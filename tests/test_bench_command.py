"""`ptmo bench`: what it measures, in which order, and the shape of its result."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from ptmo_secure import bench, cli
from ptmo_secure.bench import BenchmarkResult, prompt_ids, run_bench, settings
from ptmo_secure.cli.bench import HEADINGS
from ptmo_secure.config import BenchConfig
from ptmo_secure.engine import native_setup, registry
from ptmo_secure.errors import InputError
from ptmo_secure.tee_cost import cost_model
from tee_sim.client import CostLedger, Usage
from tee_sim.protocol import Kind, KvCommand
from tests.tiny_models import make_tiny_model

KEYS = [
    *("shield", "restore", "kv_dtype", "threads", "adapters", "prompt_tokens", "decode_tokens"),
    *("prefill_tps", "decode_tps", "kv_bytes_per_token", "weights_bytes"),
    *("tee_crossings_per_token", "tee_ms_per_token", "sim_tee_ms_per_token"),
    *("read_bytes_per_token", "read_bandwidth_gbps", "bandwidth_fraction"),
]


# One attention vector of 2,304 bytes there and back: a memory reference in the first parameter.
VECTOR_CALL = (Kind.INVOKE, 1, KvCommand.UNPERMUTE, 0x11F, (2304, *[0] * 7))


class FakeSession:
    """Counts crossings, of a prompt too, where the shield needs them."""

    def __init__(self, engine: "FakeBenchEngine") -> None:
        self.engine = engine

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        for _ in range(self.engine.crossings_per_token):
            self.engine.sessions.ledger.sent(*VECTOR_CALL)
        self.engine.fed.append(list(ids))
        return np.eye(1, 50, 42, dtype=np.float32)[0]


class FakeBenchEngine:
    """An engine with the parts that the benchmark touches."""

    order: ClassVar[list[str]] = []

    def __init__(self, name: str = "", crossings_per_token: int = 0) -> None:
        self.name, self.crossings_per_token = name, crossings_per_token
        self.sessions = SimpleNamespace(ledger=CostLedger())
        self.fed: list[list[int]] = []
        self.tokenizer = self
        self.adapters = {f"random-{i}": SimpleNamespace(bytes=100) for i in range(8)}
        self.adapted: list[tuple[str, ...]] = []  # the adapters of each session

    def encode(self, text: str) -> list[int]:
        return [3, 4, 5]

    def start_session(self, adapters: Sequence[str] = ()) -> FakeSession:
        self.order.append(self.name)
        self.adapted.append(tuple(adapters))
        return FakeSession(self)

    def stats(self) -> dict[str, object]:
        return {
            "kv_bytes_per_token": 640,
            "weights_bytes": 1000,
            "weights_bytes_per_token": 900,
        }

    def reset(self) -> None:
        pass

    def __enter__(self) -> "FakeBenchEngine":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeBenchEngine]:
    """The engines opened, by shield and restore."""
    opened: dict[str, FakeBenchEngine] = {}

    def open_fake(config: BenchConfig, setting: bench.Setting) -> FakeBenchEngine:
        engine = FakeBenchEngine(setting.label, 30 if setting.restore == "tee" else 0)
        opened[setting.label] = engine
        return engine

    monkeypatch.setattr(bench, "_open", open_fake)
    monkeypatch.setattr(bench, "read_bandwidth", lambda size, threads: 1e6 * size * threads)
    monkeypatch.setattr(FakeBenchEngine, "order", [])
    return opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def test_shields_with_a_permutation_are_measured_once_per_restore() -> None:
    found = [(s.shield, s.restore) for s in settings(BenchConfig())]
    assert found == [
        ("none", None),
        ("permute", "folded"),
        ("permute", "tee"),
        ("seal", None),
        ("permute+seal", "folded"),
        ("permute+seal", "tee"),
    ]


def test_rounds_are_interleaved(engines: dict[str, FakeBenchEngine]) -> None:
    run_bench(BenchConfig(shields=("none", "seal"), contexts=(4,), decode_tokens=2, rounds=3))
    assert FakeBenchEngine.order == ["none int8 2 threads", "seal int8 2 threads"] * 3


def test_adapters_are_stacked_by_session_on_one_engine(
    engines: dict[str, FakeBenchEngine],
) -> None:
    config = BenchConfig(shields=("none",), contexts=(4,), rounds=2, adapters=(0, 1, 3))
    rows = run_bench(config)
    (engine,) = engines.values()
    names = ("random-0", "random-1", "random-2")
    assert engine.adapted == [(), names[:1], names] * 2
    assert [row.adapters for row in rows] == [0, 1, 3]
    plain = rows[0].read_bytes_per_token
    assert [row.read_bytes_per_token - plain for row in rows] == [0, 100, 300]


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ("-1", "adapters is -1; it must be 0 or more"),
        ("0,9", "adapters is 9; at most 8 add up"),
        ("0,x", "adapters 'x' is not a whole number"),
    ],
)
def test_a_wrong_number_of_adapters_is_named(
    adapters: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--adapters", adapters]) == 2
    assert message in capsys.readouterr().err


def test_a_measurement_prefills_the_prompt_and_decodes_greedily() -> None:
    engine = FakeBenchEngine()
    bench.measure(engine, prompt_tokens=7, decode_tokens=2)
    assert engine.fed == [[3, 4, 5, 3, 4, 5, 3], [42], [42]]


def test_crossings_are_counted_per_decoded_token(engines: dict[str, FakeBenchEngine]) -> None:
    config = BenchConfig(shields=("none", "permute"), contexts=(4,), decode_tokens=5, rounds=1)
    found = {(r.shield, r.restore): r.tee_crossings_per_token for r in run_bench(config)}
    assert found == {("none", None): 0, ("permute", "folded"): 0, ("permute", "tee"): 30}


@pytest.mark.parametrize(("name", "call_us"), [("optimistic", 10), ("pessimistic", 131)])
def test_simulated_time_is_that_of_the_decoded_tokens_crossings(
    engines: dict[str, FakeBenchEngine], name: str, call_us: float
) -> None:
    config = BenchConfig(
        shields=("permute",), contexts=(4,), decode_tokens=5, rounds=1, cost_model=cost_model(name)
    )
    found = {r.restore: r.sim_tee_ms_per_token for r in run_bench(config)}
    copied_us = 2 * 2304 / 2000  # 2 GB/s are 2,000 bytes a microsecond
    assert found == {"folded": 0, "tee": pytest.approx(30 * (call_us + copied_us) / 1000)}


def test_the_time_waited_for_the_tee_is_that_of_a_token(
    engines: dict[str, FakeBenchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = iter((9.0, 4.0, 6.0))
    monkeypatch.setattr(
        bench, "measure", lambda *_: bench.Sample(1.0, 1.0, Usage(wall_ms=next(waited)))
    )
    config = BenchConfig(shields=("seal",), contexts=(16,), decode_tokens=4, rounds=3)
    (result,) = run_bench(config)
    assert result.tee_ms_per_token == 1.5


def test_a_speed_is_the_median_of_its_rounds(
    engines: dict[str, FakeBenchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter(bench.Sample(*s, Usage()) for s in ((1.0, 4.0), (2.0, 1.0), (8.0, 2.0)))
    monkeypatch.setattr(bench, "measure", lambda *_: next(taken))
    config = BenchConfig(shields=("none",), contexts=(16,), decode_tokens=8, rounds=3)
    (result,) = run_bench(config)
    assert (result.prefill_tps, result.decode_tps) == (8.0, 4.0)


def test_a_cuda_device_is_set_against_what_it_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    class CopyBench:
        call_bytes = 2 * 300

        def __init__(self, size: int) -> None:
            assert size == 256 << 20

        def milliseconds(self) -> float:
            return 0.5

    monkeypatch.setattr(native_setup, "cuda_module", lambda: SimpleNamespace(CopyBench=CopyBench))
    monkeypatch.setattr(bench, "read_bandwidth", lambda *_: pytest.fail("the host was measured"))
    assert bench.peak_bandwidth("cuda", 1000, 2) == pytest.approx(1.2e6)


@pytest.mark.parametrize("batch", [[], ["--batch", "1,2"]])
def test_without_a_cuda_device_one_line_says_so(
    model: Path,
    batch: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    command = ["bench", "--model", str(model), "--contexts", "4", "--device", "cuda", *batch]
    assert cli.main(command) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert re.fullmatch(r"error: device 'cuda': .*; use device='cpu'\n", streams.err)


def test_what_a_cuda_device_cannot_do_is_refused_before_a_model_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["bench", "--model", "no-such", "--kv-dtype", "int8,fp32", "--device", "cuda"]
    assert cli.main(command) == 2
    assert "device 'cuda' has no fp32 cache" in capsys.readouterr().err


def test_the_bandwidth_fraction_is_bytes_read_over_bytes_the_machine_reads(
    engines: dict[str, FakeBenchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: bench.Sample(1.0, 2.0, Usage()))
    asked: list[tuple[int, int]] = []

    def read_bandwidth(size: int, threads: int) -> float:
        asked.append((size, threads))
        return 4e5

    monkeypatch.setattr(bench, "read_bandwidth", read_bandwidth)
    config = BenchConfig(shields=("none", "seal"), contexts=(16,), decode_tokens=9, rounds=3)
    result, _ = run_bench(config)
    size = 900 + 640 * (16 + 5)  # the ninth token reads 25 rows, the first 17
    assert asked == [(size, 2)] * 3  # once a round: both settings read as much
    assert result.read_bytes_per_token == size
    assert result.bandwidth_fraction == pytest.approx(4.5 * size / 4e5)


def test_progress_counts_every_measurement(engines: dict[str, FakeBenchEngine]) -> None:
    seen: list[tuple[int, int]] = []
    config = BenchConfig(shields=("none",), contexts=(2, 3), decode_tokens=2, rounds=2)
    run_bench(config, lambda done, total, _: seen.append((done, total)))
    assert seen == [(0, 4), (0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_json_has_the_documented_keys(
    engines: dict[str, FakeBenchEngine],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda name: name)
    command = ["bench", "--shields", "none", "--contexts", "4", "--rounds", "1", "--json"]
    assert cli.main(command) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["command", "commit", "machine", "config", "results"]
    assert value["command"] == "ptmo " + " ".join(command)
    assert value["config"]["contexts"] == [4]
    assert value["config"]["cost_model"]["name"] == "orin_est"
    assert value["config"]["cost_model"]["call_us"]["value"] == 25
    assert "Raspberry Pi 3" in value["config"]["cost_model"]["call_us"]["source"]
    (row,) = value["results"]
    assert list(row) == KEYS
    assert (row["restore"], row["weights_bytes"]) == (None, 1000)


def test_the_table_names_the_restore_of_a_permutation() -> None:
    row = BenchmarkResult(
        *("permute", "tee", "int8", 2, 1, 128, 64, 401.6, 80.26, 12240, 2**20, 30.0),
        *(1.246, 0.8191, 2**20, 40.0, 0.614),
    )
    (cells,) = bench.iterate_rows([row])
    assert cells[0] == "permute (tee)"
    assert cells[3:11] == ("1", "128 + 64", "402", "80.3", "12.46", "1.25", "0.82", "30.0")
    assert len(cells) == len(HEADINGS)
    assert cells[-1] == "61 %"


def test_a_short_text_is_repeated_to_the_length_asked() -> None:
    assert prompt_ids([1, 2], 5) == [1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"shields": ("foil",)}, "unknown shield 'foil'"),
        ({"kv_dtypes": ("int3",)}, "unknown kv-dtype 'int3'"),
        ({"contexts": (0,)}, "contexts is 0"),
        ({"threads": (0,)}, "threads is 0"),
        ({"decode_tokens": 1}, "decode-tokens is 1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"batches": (2,), "inject_cost": True}, "inject-cost is not measured together with batch"),
    ],
)
def test_a_bad_configuration_names_the_field(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        BenchConfig(**fields)
